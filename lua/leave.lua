-- End the lease of a worker in one partition, and release the lanes that it still holds there.
--
-- FLAGS    allow-oom
-- KEYS     1 hash of the partition's leases
-- ARGV     1 worker id
-- RETURNS  the number of lanes released
-- ERRORS   none of its own
-- COST     the number of lanes and workers of the partition
-- INVARIANT no lane of another worker changes.

local leases = KEYS[1]
local worker = ARGV[1]

redis.call("HDEL", leases, "worker " .. worker, "moved " .. worker)
local released = 0
local all = redis.call("HGETALL", leases)
for index = 1, #all, 2 do
  if string.find(all[index], "^lane ") and all[index + 1] == worker then
    redis.call("HSET", leases, all[index], "")
    redis.call("HDEL", leases, "tenure " .. string.sub(all[index], 6))
    released = released + 1
  end
end
return released
