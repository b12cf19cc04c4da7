-- Write a namespace's layout if it has none, and tell which it has.
--
-- KEYS     1 hash of the layout
-- ARGV     1 version  2 partitions  3 lanes
-- RETURNS  {version, partitions, lanes} as stored
-- COST     constant
-- INVARIANT a layout is written once and never changed.

local layout = KEYS[1]
local version, partitions, lanes = ARGV[1], ARGV[2], ARGV[3]

if redis.call("EXISTS", layout) == 0 then
  redis.call("HSET", layout, "version", version, "partitions", partitions, "lanes", lanes)
end
return redis.call("HMGET", layout, "version", "partitions", "lanes")
