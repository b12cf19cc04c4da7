-- A bare set: the calls of our `set` without anything else.
-- KEYS 1 values  2 revisions  3 events  4 record of the request   ARGV 1 scope  2 key  3 request  4 new text
-- RETURNS {revision}
redis.call("EXISTS", KEYS[4])
local old = redis.call("HGET", KEYS[1], ARGV[2])
local revision = redis.call(
  "XADD", KEYS[3], "*",
  "type", "state:updated", "scope", ARGV[1], "key", ARGV[2], "request", ARGV[3], "new", ARGV[4], "old", old
)
redis.call("HSET", KEYS[2], ARGV[2], revision)
redis.call("HSET", KEYS[1], ARGV[2], ARGV[4])
return { revision }
