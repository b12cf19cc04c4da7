-- Prolong all leases of a worker in one partition, or begin to hold any.
--
-- KEYS     1 hash of the partition's leases
-- ARGV     1 worker id  2 time to live (milliseconds)  3 "first" or "again"
-- RETURNS  1, or 0 when they had run out before this call ("again"): then they are lost
-- COST     constant
-- INVARIANT leases that ran out never come to life again.

local lease = require("lib.lease")

local leases = KEYS[1]
local worker, ttl, which = ARGV[1], tonumber(ARGV[2]), ARGV[3]

if which == "again" and not lease.is_alive(redis.call, leases, worker) then
  return 0
end
redis.call("HSET", leases, "worker " .. worker, string.format("%.0f", lease.now(redis.call) + ttl))
return 1
