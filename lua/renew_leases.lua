-- Begin or renew all leases of a worker in one partition.
--
-- KEYS     1 hash of the partition's leases
-- ARGV     1 worker id  2 time to live (milliseconds, 1 or more)  3 "begin" or "renew"
-- RETURNS  1 when the leases are valid; 0 when they had run out before a "renew": then they are lost
-- ERRORS   none of its own
-- COST     constant; for "begin" the number of lanes and workers of the partition
-- INVARIANT leases that have run out never become valid again.

local lease = require("lib.lease")

local leases = KEYS[1]
local worker, ttl, mode = ARGV[1], tonumber(ARGV[2]), ARGV[3]

if mode == "begin" then
  -- A new worker removes expired ones, because a killed worker cannot remove itself.
  local all, now = redis.call("HGETALL", leases), lease.now(redis.call)
  for index = 1, #all, 2 do
    if string.find(all[index], "^worker ") and tonumber(all[index + 1]) <= now then
      redis.call("HDEL", leases, all[index])
    end
  end
end
if mode == "renew" and not lease.is_alive(redis.call, leases, worker) then
  return 0
end
redis.call("HSET", leases, "worker " .. worker, string.format("%.0f", lease.now(redis.call) + ttl))
return 1
