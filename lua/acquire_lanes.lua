-- Acquire the lanes that no live worker holds.
--
-- KEYS     1 hash of the partition's leases
-- ARGV     1 worker id  2... names of lanes
-- RETURNS  {outcome of each lane}: "held" = the worker held the lane already; "free" = acquired, nobody held the lane;
--          "dead" = acquired, the lease of the last holder had run out; "" = another worker holds the lane, or the leases of
--          this worker have run out
-- ERRORS   none of its own
-- COST     the number of lanes
-- INVARIANT a lane has at most one holder, and a new holder is alive.

local lease = require("lib.lease")

local leases = KEYS[1]
local worker = ARGV[1]
local FIRST_LANE = 2

if not lease.is_alive(redis.call, leases, worker) then
  local none = {}
  for _ = FIRST_LANE, #ARGV do
    none[#none + 1] = ""
  end
  return none
end
local outcomes = {}
for index = FIRST_LANE, #ARGV do
  local field = "lane " .. ARGV[index]
  local holder = redis.call("HGET", leases, field)
  if holder == "" then
    holder = false
  end
  local outcome = "free"
  if holder == worker then
    outcome = "held"
  elseif holder and lease.is_alive(redis.call, leases, holder) then
    outcome = ""
  else
    if holder then
      outcome = "dead"
    end
    redis.call("HSET", leases, field, worker)
  end
  outcomes[#outcomes + 1] = outcome
end
return outcomes
