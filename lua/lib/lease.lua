-- Reads the leases of one partition. They are one hash with these fields:
--   "worker <id>"       when the leases of the worker run out (Unix milliseconds)
--   "lane <name>"       id of the worker that holds the lane; "" after it was released, so the hash lists every lane ever held
--   "forgotten <step>"  "": the step was forgotten and left dead letters
-- A lease is valid while both its lane and its worker say so. Worker ids are never reused. `call` is redis.call.

local function now(call)
  local time = call("TIME")
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function is_alive(call, leases, worker)
  local expiry = call("HGET", leases, "worker " .. worker)
  return expiry and tonumber(expiry) > now(call)
end

-- Return whether `worker` holds `lane` now.
local function holds(call, leases, worker, lane)
  return call("HGET", leases, "lane " .. lane) == worker and is_alive(call, leases, worker)
end

return { now = now, is_alive = is_alive, holds = holds }
