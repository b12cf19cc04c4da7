-- Renew the lease of a worker in one partition: it holds for all lanes of the worker there.
--
-- FLAGS    allow-oom
-- KEYS     1 hash of the partition's leases
-- ARGV     1 worker id  2 time to live (milliseconds, 1 or more)  3 "first" = of a new worker: remove those that ended long ago
-- RETURNS  1 when the lease had not run out; 0 when it had, or there was none: others may have taken lanes meanwhile; 0 also when
--          the position of a lane that the worker holds was moved since the last call
-- ERRORS   none of its own
-- COST     constant; for "first" the number of lanes and workers of the partition
-- INVARIANT no lane changes its holder.

local clock = require("lib.clock")
local full = require("lib.full")
local lease = require("lib.lease")

local leases = KEYS[1]
local worker, ttl, mode = ARGV[1], tonumber(ARGV[2]), ARGV[3]

local KEPT = 600000 -- milliseconds

full.allow_writes(redis.call, leases)
local now = clock.now(redis.call)
if mode == "first" then
  -- A killed worker cannot remove itself.
  local all = redis.call("HGETALL", leases)
  for index = 1, #all, 2 do
    local ended = string.match(all[index], "^worker (.*)$")
    if ended and (tonumber(all[index + 1]) or 0) < now - KEPT then
      redis.call("HDEL", leases, all[index], "moved " .. ended)
    end
  end
end
local alive = lease.is_alive(redis.call, leases, worker)
redis.call("HSET", leases, "worker " .. worker, string.format("%.0f", now + ttl))
local has_moved = redis.call("HDEL", leases, "moved " .. worker) == 1
return alive and not has_moved and 1 or 0
