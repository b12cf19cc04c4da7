-- The floor (c): read, write and append an event, without a change. The text serves as old and as new text.
-- KEYS 1 values  2 revisions  3 events   ARGV 1 scope  2 key  3 request  4 old text of the event, "" = the full text
-- RETURNS {revision, text}
local old = redis.call("HGET", KEYS[1], ARGV[2])
local revision = redis.call(
  "XADD", KEYS[3], "*",
  "type", "state:updated", "scope", ARGV[1], "key", ARGV[2], "new", old, "old", ARGV[4] == "" and old or ARGV[4],
  "request", ARGV[3]
)
redis.call("HSET", KEYS[1], ARGV[2], old)
redis.call("HSET", KEYS[2], ARGV[2], revision)
return { revision, old }
