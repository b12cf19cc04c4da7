-- The only place where scripts ask for the time. `call` is redis.call.

-- Return the time of the server in Unix milliseconds. It is the clock of leases and of stream ids: what is compared with an id,
-- such as the age of an entry or the start of a repeated call, must never be moved by a test. COST: one TIME.
local function now(call)
  local time = call("TIME")
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Return the time by which something falls due: that of the server, moved by what a test has stored in the hash `trimmed` of the
-- partition. COST: one TIME, one HGET.
local function due_time(call, trimmed)
  return now(call) + (tonumber(call("HGET", trimmed, "clock") or 0) or 0)
end

return { now = now, due_time = due_time }
