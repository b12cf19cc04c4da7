-- Take the lanes that nobody holds.
--
-- KEYS     1 hash of the partition's leases
-- ARGV     1 worker id  2... names of lanes
-- RETURNS  for each lane: "held" (by the worker already), "free" (taken; its last holder gave it back, or there was none),
--          "dead" (taken; its last holder's lease ran out), "" (somebody else holds it)
-- COST     the number of lanes
-- INVARIANT a lane has one holder at most, and only one that lives.

local lease = require("lib.lease")

local leases = KEYS[1]
local worker = ARGV[1]

if not lease.is_alive(redis.call, leases, worker) then
  local none = {}
  for index = 2, #ARGV do
    none[index - 1] = ""
  end
  return none
end
local outcomes = {}
for index = 2, #ARGV do
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
  outcomes[index - 1] = outcome
end
return outcomes
