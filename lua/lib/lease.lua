-- Leases of one partition, in one hash: "worker <id>" -> when its leases run out (unix milliseconds), "lane <name>" -> the
-- id of the worker that holds the lane, "" for one that was given back: so the hash knows all lanes that ever had a holder. A
-- lease holds while both say so; ids are never used twice. "forgotten <step>" -> "": the step left dead letters. `call` is
-- redis.call.

local function now(call)
  local time = call("TIME")
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function is_alive(call, leases, worker)
  local expiry = call("HGET", leases, "worker " .. worker)
  return expiry and tonumber(expiry) > now(call)
end

-- Whether `worker` holds `lane` at this moment.
local function holds(call, leases, worker, lane)
  return call("HGET", leases, "lane " .. lane) == worker and is_alive(call, leases, worker)
end

return { now = now, is_alive = is_alive, holds = holds }
