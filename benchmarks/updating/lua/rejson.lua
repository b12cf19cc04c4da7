-- The rival (b): RedisJSON. The value is a document of the module, not text in a hash.
-- KEYS 1 document  2 revisions  3 events   ARGV 1 scope  2 key  3 request  4 amount  5 path, as `.a.b[3].c`
-- RETURNS {revision, new text}
local old = redis.call("JSON.GET", KEYS[1])
redis.call("JSON.NUMINCRBY", KEYS[1], ARGV[5], ARGV[4])
local new = redis.call("JSON.GET", KEYS[1])
local revision = redis.call(
  "XADD", KEYS[3], "*",
  "type", "state:updated", "scope", ARGV[1], "key", ARGV[2], "new", new, "old", old, "request", ARGV[3]
)
redis.call("HSET", KEYS[2], ARGV[2], revision)
return { revision, new }
