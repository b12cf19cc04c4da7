-- Write the layout of a namespace if it has none, and return the stored one.
--
-- KEYS     1 hash of the layout
-- ARGV     1 version  2 partitions  3 lanes (decimal, 1 or more)
-- RETURNS  {version, partitions, lanes} as stored; nil for a field that the hash does not have
-- ERRORS   none of its own
-- COST     constant
-- INVARIANT a layout is written once and never changed.

local layout = KEYS[1]
local version, partitions, lanes = ARGV[1], ARGV[2], ARGV[3]

if redis.call("EXISTS", layout) == 0 then
  redis.call("HSET", layout, "version", version, "partitions", partitions, "lanes", lanes)
end
return redis.call("HMGET", layout, "version", "partitions", "lanes")
