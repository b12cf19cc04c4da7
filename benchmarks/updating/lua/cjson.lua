-- The rival (a): decode, change, encode. Its event contains both texts in full, like those of all contenders except ours.
-- KEYS 1 values  2 revisions  3 events   ARGV 1 scope  2 key  3 request  4 amount  5... path segments
-- RETURNS {revision, new text}
local old = redis.call("HGET", KEYS[1], ARGV[2])
local document = cjson.decode(old)
local node = document
for index = 5, #ARGV - 1 do
  local segment = ARGV[index]
  node = node[segment] or node[tonumber(segment) + 1]
end
local last = ARGV[#ARGV]
node[last] = node[last] + tonumber(ARGV[4])
local new = cjson.encode(document)
local revision = redis.call(
  "XADD", KEYS[3], "*",
  "type", "state:updated", "scope", ARGV[1], "key", ARGV[2], "new", new, "old", old, "request", ARGV[3]
)
redis.call("HSET", KEYS[1], ARGV[2], new)
redis.call("HSET", KEYS[2], ARGV[2], revision)
return { revision, new }
