-- Pause a step, or let it go on. Workers learn of it by their heartbeats.
--
-- FLAGS    allow-oom
-- KEYS     1 hash of the namespace's workers, see heartbeat.lua
-- ARGV     1 step  2 "pause" or "resume"
-- RETURNS  {1 when that changed something, else 0; since when the step was paused before the call (Unix milliseconds), 0 = it
--          was not}
-- ERRORS   none of its own
-- COST     constant
-- INVARIANT a step that is paused keeps the time since when it is. Works over maxmemory.

local clock = require("lib.clock")
local full = require("lib.full")

local workers = KEYS[1]
local step, mode = ARGV[1], ARGV[2]

local field = "paused " .. step
local since = redis.call("HGET", workers, field)
local changes = (mode == "pause") == not since
if changes and mode == "pause" then
  full.allow_writes(redis.call, workers)
  redis.call("HSET", workers, field, string.format("%.0f", clock.now(redis.call)))
elseif changes then
  redis.call("HDEL", workers, field)
end
return { changes and 1 or 0, tonumber(since or 0) or 0 }
