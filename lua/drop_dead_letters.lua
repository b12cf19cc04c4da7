-- Delete dead letters of a step.
--
-- FLAGS    allow-oom
-- KEYS     1 stream of the step's dead letters  2 hash of the partition's leases
-- ARGV     1 step  2... ids of dead letters
-- RETURNS  {identity of the step (see lib/lease.lua), ids of the dead letters that were deleted...}
-- ERRORS   none of its own
-- COST     the number of dead letters
-- INVARIANT a forgotten step stays on record only while it has dead letters. Works over maxmemory: all writes free
--          memory.

local dead, leases = KEYS[1], KEYS[2]
local step = ARGV[1]
local FIRST_LETTER = 2

local removed = { redis.call("HGET", leases, "identity " .. step) or step }
for index = FIRST_LETTER, #ARGV do
  if redis.call("XDEL", dead, ARGV[index]) == 1 then
    removed[#removed + 1] = ARGV[index]
  end
end
if redis.call("XLEN", dead) == 0 then
  redis.call("DEL", dead)
  redis.call("HDEL", leases, "forgotten " .. step)
end
return removed
