-- The only place where scripts ask for the time. `call` is redis.call.

-- Return the time of the server in Unix milliseconds. It is the clock of leases and of stream ids: what is compared with an id,
-- such as the age of an entry or the start of a repeated call, must never be moved by a test. COST: one TIME.
local function now(call)
  local time = call("TIME")
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

return { now = now }
