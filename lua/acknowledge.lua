-- Acknowledge entries of one lane, if the worker still holds it.
--
-- KEYS     1 hash of the partition's leases  2 stream of the lane  3 hash of the step's recorded attempts
-- ARGV     1 worker id  2 name of the lane  3 group  4... entry ids
-- RETURNS  1, or 0 when the lane is no longer the worker's: then nothing was acknowledged
-- COST     the number of entries
-- INVARIANT an entry is acknowledged by the holder of its lane only.

local lease = require("lib.lease")

local leases, stream, attempts = KEYS[1], KEYS[2], KEYS[3]
local worker, lane, group = ARGV[1], ARGV[2], ARGV[3]

if not lease.holds(redis.call, leases, worker, lane) then
  return 0
end
local ids = {}
for index = 4, #ARGV do
  ids[index - 3] = ARGV[index]
end
redis.call("XACK", stream, group, unpack(ids))
if redis.call("EXISTS", attempts) == 1 then
  local fields = {}
  for index, id in ipairs(ids) do
    fields[index] = lane .. " " .. id
  end
  redis.call("HDEL", attempts, unpack(fields))
end
return 1
