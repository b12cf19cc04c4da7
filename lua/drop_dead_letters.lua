-- Remove dead letters of a step for good.
--
-- KEYS     1 stream of the step's dead letters  2 hash of the partition's leases
-- ARGV     1 step  2... ids of letters
-- RETURNS  the number of letters removed
-- COST     the number of letters
-- INVARIANT the step is remembered as forgotten only while it has letters.

local dead, leases = KEYS[1], KEYS[2]
local step = ARGV[1]

local removed = 0
for index = 2, #ARGV do
  removed = removed + redis.call("XDEL", dead, ARGV[index])
end
if redis.call("XLEN", dead) == 0 then
  redis.call("DEL", dead)
  redis.call("HDEL", leases, "forgotten " .. step)
end
return removed
