-- Release lanes, so that other workers can acquire them at once. The lanes stay on record without a holder.
--
-- KEYS     1 hash of the partition's leases
-- ARGV     1 worker id  2 "stay" or "leave" (also end the worker's leases in this partition)  3... names of lanes
-- RETURNS  the number of lanes released
-- ERRORS   none of its own
-- COST     the number of lanes
-- INVARIANT a lane that another worker holds does not change.

local leases = KEYS[1]
local worker, mode = ARGV[1], ARGV[2]
local FIRST_LANE = 3

local released = 0
for index = FIRST_LANE, #ARGV do
  local field = "lane " .. ARGV[index]
  if redis.call("HGET", leases, field) == worker then
    redis.call("HSET", leases, field, "")
    released = released + 1
  end
end
if mode == "leave" then
  redis.call("HDEL", leases, "worker " .. worker)
end
return released
