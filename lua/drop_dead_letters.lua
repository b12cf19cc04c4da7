-- Delete dead letters of a step.
--
-- FLAGS    allow-oom
-- KEYS     1 stream of the step's dead letters  2 hash of the partition's leases
-- ARGV     1 step  2... ids of dead letters
-- RETURNS  the number of dead letters deleted
-- ERRORS   none of its own
-- COST     the number of dead letters
-- INVARIANT a forgotten step stays on record only while it has dead letters. Works over maxmemory: all writes free
--          memory.

local dead, leases = KEYS[1], KEYS[2]
local step = ARGV[1]
local FIRST_LETTER = 2

local removed = 0
for index = FIRST_LETTER, #ARGV do
  removed = removed + redis.call("XDEL", dead, ARGV[index])
end
if redis.call("XLEN", dead) == 0 then
  redis.call("DEL", dead)
  redis.call("HDEL", leases, "forgotten " .. step)
end
return removed
