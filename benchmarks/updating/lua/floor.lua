-- The floor (c): read, write and tell, without changing anything. What it reads stands for the old and the new text.
-- KEYS 1 values  2 revisions  3 events   ARGV 1 scope  2 key  3 request  4 what the event has for the old text, "" = all of it
-- RETURNS {revision, text}
local old = redis.call("HGET", KEYS[1], ARGV[2])
local revision = redis.call(
  "XADD", KEYS[3], "*",
  "type", "state:updated", "scope", ARGV[1], "key", ARGV[2], "new", old, "old", ARGV[4] == "" and old or ARGV[4],
  "request", ARGV[3], "trace", ""
)
redis.call("HSET", KEYS[1], ARGV[2], old)
redis.call("HSET", KEYS[2], ARGV[2], revision)
return { revision, old }
