-- Record that a worker is alive, and return all workers on record.
--
-- FLAGS    allow-oom
-- KEYS     1 hash of the namespace's workers: id -> "<expiry, Unix milliseconds> <description>";
--            "paused <step>" -> since when a step is paused (Unix milliseconds), see pause_step.lua
-- ARGV     1 worker id  2 description (JSON)  3 time to live (milliseconds; 0 = the worker leaves)
-- RETURNS  {server time (milliseconds), id, value, id, value, ...}: also workers that ended lately, paused steps, and fields of
--          others
-- ERRORS   none of its own
-- COST     the number of workers
-- INVARIANT the hash holds no worker that ended more than ten minutes before this call.

local clock = require("lib.clock")
local full = require("lib.full")

local workers = KEYS[1]
local id, description, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3])

local KEPT = 600000 -- milliseconds: others judge by the workers of the last seconds what is still wanted

full.allow_writes(redis.call, workers)
local now = clock.now(redis.call)
redis.call("HSET", workers, id, string.format("%.0f", now + ttl) .. " " .. description)
local found = { string.format("%.0f", now) }
local all = redis.call("HGETALL", workers)
for index = 1, #all, 2 do
  local expiry = tonumber(string.match(all[index + 1], "^(%d+) "))
  if expiry and expiry < now - KEPT then
    redis.call("HDEL", workers, all[index])
  else
    found[#found + 1] = all[index]
    found[#found + 1] = all[index + 1]
  end
end
return found
