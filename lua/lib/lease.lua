-- Reads the leases of one partition. They are one hash with these fields:
--   "worker <id>"       when the lease of the worker runs out (Unix milliseconds); each heartbeat writes a later time
--   "lane <name>"       id of the worker that holds the lane; "" after it was released, so the hash lists every lane ever held
--   "tenure <name>"     number of the time for which the worker holds it, counted by the worker; MOVED = an operator has moved
--                       the lane's position: the worker keeps the lane, and acquires it again when none of its handlers runs
--   "moved <id>"        "": the worker has not learned yet that it holds such a lane
--   "forgotten <step>"  "": the step was forgotten and left dead letters
--   "identity <step>"   what stands for the step in ids that must stay the same when it is renamed; absent = its name
-- Worker ids are never reused, nor are the tenures of one worker. A lane belongs to its holder until another worker takes it,
-- also after the lease ran out. `call` is redis.call.
--
-- The hash of a lane's entries has what is known beyond the low-water mark of the lane's group:
--   "position"  every entry up to this id is finished, unless it has a field; absent = the low-water mark
--   "<id>"      "<attempts>:<earliest next attempt, Unix milliseconds>:<worker that runs the entry; "" = none>"; or "done"

local clock = require("lib.clock")

local MOVED = "moved" -- no worker counts so

local function is_alive(call, leases, worker)
  local expiry = call("HGET", leases, "worker " .. worker)
  return expiry and tonumber(expiry) > clock.now(call)
end

local function holds(call, leases, worker, lane, tenure)
  local found = call("HMGET", leases, "lane " .. lane, "tenure " .. lane)
  return found[1] == worker and found[2] == tenure
end

-- Return whether a worker decides about an entry: it holds the lane, or it runs the entry that it left to the next holder.
local function may_settle(call, leases, entries, worker, lane, tenure, id)
  if tenure ~= "" and holds(call, leases, worker, lane, tenure) then
    return true
  end
  local known = call("HGET", entries, id)
  return known and string.match(known, "^%d+:%d+:(.*)$") == worker
end

return { MOVED = MOVED, is_alive = is_alive, holds = holds, may_settle = may_settle }
