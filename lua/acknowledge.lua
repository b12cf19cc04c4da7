-- Acknowledge entries of lanes of one partition that the worker still holds.
--
-- KEYS     1 hash of the partition's leases; then of each lane  its stream  hash of its step's recorded attempts
-- ARGV     1 worker id; then of each lane  its name  its group  entry ids...  and "" before the next lane
-- RETURNS  1, or 0 when a lane is no longer the worker's: then nothing of it was acknowledged
-- COST     the number of entries
-- INVARIANT an entry is acknowledged by the holder of its lane only.

local lease = require("lib.lease")

local leases, worker = KEYS[1], ARGV[1]

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

local accepted, at = 1, 2
for key = 2, #KEYS, 2 do
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
