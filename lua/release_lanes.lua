-- Give lanes back, so that others can take them at once. They stay on record as lanes that nobody holds.
--
-- KEYS     1 hash of the partition's leases
-- ARGV     1 worker id  2 "stay" or "leave" (the worker gives up everything)  3... names of lanes
-- RETURNS  the number of lanes given back
-- COST     the number of lanes
-- INVARIANT a lane that somebody else holds is not touched.

local leases = KEYS[1]
local worker, which = ARGV[1], ARGV[2]

local released = 0
for index = 3, #ARGV do
  local field = "lane " .. ARGV[index]
  if redis.call("HGET", leases, field) == worker then
    redis.call("HSET", leases, field, "")
    released = released + 1
  end
end
if which == "leave" then
  redis.call("HDEL", leases, "worker " .. worker)
end
return released
