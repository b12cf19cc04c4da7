-- Acknowledge entries on lanes of one partition, those that the worker still holds.
--
-- KEYS     1 hash of the partition's leases
--          2... for each lane: its stream, the hash of its step's recorded attempts
-- ARGV     1 worker id
--          2... for each lane: its name, its group, 1 or more entry ids; an empty argument separates two lanes
-- RETURNS  1 when the worker holds all the lanes; 0 when it does not: then nothing was acknowledged on the lanes it does not hold
-- ERRORS   none of its own
-- COST     the number of entries
-- INVARIANT only the holder of a lane acknowledges its entries.

local lease = require("lib.lease")

local leases, worker = KEYS[1], ARGV[1]
local FIRST_LANE_KEY, FIRST_LANE_ARGUMENT = 2, 2

local function acknowledge(stream, attempts, lane, group, ids)
  redis.call("XACK", stream, group, unpack(ids))
  if redis.call("EXISTS", attempts) == 1 then
    local fields = {}
    for index, id in ipairs(ids) do
      fields[index] = lane .. " " .. id
    end
    redis.call("HDEL", attempts, unpack(fields))
  end
end

local accepted, at = 1, FIRST_LANE_ARGUMENT
for key = FIRST_LANE_KEY, #KEYS, 2 do
  local lane, group, ids = ARGV[at], ARGV[at + 1], {}
  at = at + 2
  while ARGV[at] and ARGV[at] ~= "" do
    ids[#ids + 1] = ARGV[at]
    at = at + 1
  end
  at = at + 1
  if lease.holds(redis.call, leases, worker, lane) then
    acknowledge(KEYS[key], KEYS[key + 1], lane, group, ids)
  else
    accepted = 0
  end
end
return accepted
