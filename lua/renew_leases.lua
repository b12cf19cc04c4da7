-- Prolong all leases of a worker in one partition, or begin to hold any.
--
-- KEYS     1 hash of the partition's leases
-- ARGV     1 worker id  2 time to live (milliseconds)  3 "first" or "again"
-- RETURNS  1, or 0 when they had run out before this call ("again"): then they are lost
-- COST     constant; the number of lanes and workers for "first"
-- INVARIANT leases that ran out never come to life again.

local lease = require("lib.lease")

local leases = KEYS[1]
local worker, ttl, which = ARGV[1], tonumber(ARGV[2]), ARGV[3]

if which == "first" then
  -- Whoever begins clears away those whose time ran out: nobody else would, after a kill.
  local all, now = redis.call("HGETALL", leases), lease.now(redis.call)
  for index = 1, #all, 2 do
    if string.find(all[index], "^worker ") and tonumber(all[index + 1]) <= now then
      redis.call("HDEL", leases, all[index])
    end
  end
end
if which == "again" and not lease.is_alive(redis.call, leases, worker) then
  return 0
end
redis.call("HSET", leases, "worker " .. worker, string.format("%.0f", lease.now(redis.call) + ttl))
return 1
