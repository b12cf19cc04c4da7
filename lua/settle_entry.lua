-- Record an attempt at one entry, or that the worker to which the entry was left has finished it.
--
-- FLAGS    allow-oom
-- KEYS     1 hash of the partition's leases  2 hash of the lane's entries
-- ARGV     1 worker id  2 name of the lane  3 tenure ("" = the worker gave the lane away)  4 entry id
--          5 value to write, see lib/lease.lua; "" = finished
-- RETURNS  1; 0 when the worker neither holds the lane nor runs the entry: then nothing changed
-- ERRORS   none of its own
-- COST     constant
-- INVARIANT only the holder of the lane, or the worker that still runs an entry, changes what is known about the entry.

local lease = require("lib.lease")
local full = require("lib.full")

local leases, entries = KEYS[1], KEYS[2]
local worker, lane, tenure, id, value = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

full.allow_writes(redis.call, leases)
if not lease.may_settle(redis.call, leases, entries, worker, lane, tenure, id) then
  return 0
end
if value == "" then
  redis.call("HDEL", entries, id)
else
  redis.call("HSET", entries, id, value)
end
return 1
