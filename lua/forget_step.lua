-- Remove what a step has in one partition: its consumer groups, its recorded attempts and its lanes.
--
-- KEYS     1 hash of the partition's leases  2 hash of the step's recorded attempts  3 stream of the step's dead letters
--          4... streams on which the step may have a group
-- ARGV     1 step  2 "keep" or "drop": what to do with the dead letters
-- RETURNS  {number of groups removed, number of dead letters that the step had}
-- ERRORS   none of its own
-- COST     the number of streams, of lanes in the partition and of the step's pending entries
-- INVARIANT a step whose dead letters are kept stays on record as forgotten, so that they can be found. Works over
--          maxmemory.

local full = require("lib.full")

local leases, attempts, dead = KEYS[1], KEYS[2], KEYS[3]
local step, letters = ARGV[1], ARGV[2]
local FIRST_STREAM = 4

full.allow_writes(redis.call, leases) -- Redis 6.2 marks all of XGROUP as taking memory
local groups = 0
for index = FIRST_STREAM, #KEYS do
  if redis.call("EXISTS", KEYS[index]) == 1 then
    groups = groups + redis.call("XGROUP", "DESTROY", KEYS[index], step)
  end
end
local start = "lane " .. step .. "\n"
for _, field in ipairs(redis.call("HKEYS", leases)) do
  if string.sub(field, 1, #start) == start then
    redis.call("HDEL", leases, field)
  end
end
redis.call("UNLINK", attempts)
local count = redis.call("XLEN", dead)
if letters == "drop" or count == 0 then
  redis.call("UNLINK", dead)
  redis.call("HDEL", leases, "forgotten " .. step)
else
  redis.call("HSET", leases, "forgotten " .. step, "")
end
return { groups, count }
