-- Move an entry to the step's dead letters, in one atomic step.
--
-- FLAGS    allow-oom
-- KEYS     1 hash of the partition's leases  2 stream of the entry  3 hash of the lane's entries
--          4 stream of the step's dead letters  5 hash that records what was trimmed from the partition's streams
-- ARGV     1 worker id  2 name of the lane  3 tenure ("" = the worker gave the lane away)  4 step  5 entry id
--          6 error type  7 error text  8 traceback  9 trace id of the attempts  10 attempts made (decimal)
--          11 limits of the dead letters, see lib/retention.lua
-- RETURNS  id of the dead letter; "" when an earlier call moved the entry; nil when the worker does not decide about the entry:
--          then nothing changed
-- ERRORS   none of its own
-- COST     the bytes of the entry, and what is trimmed: see lib/retention.lua
-- INVARIANT an entry is a dead letter once; it is finished from then on.

local clock = require("lib.clock")
local lease = require("lib.lease")
local full = require("lib.full")

local leases, stream, entries, dead, trimmed = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local worker, lane, tenure, step, id = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local error_type, error_text, traceback, trace = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local attempts, limits = ARGV[10], ARGV[11]

full.allow_writes(redis.call, leases)
if redis.call("HGET", entries, id) == "done" then
  return "" -- an earlier call moved the entry, and its reply was lost
end
if not lease.may_settle(redis.call, leases, entries, worker, lane, tenure, id) then
  return nil
end
-- The fields of the entry follow these nine; retry_dead_letter.lua depends on that.
local letter = {
  "step", step, "stream", stream, "id", id, "error", error_type, "text", error_text, "attempts", attempts,
  "time", string.format("%.0f", clock.now(redis.call)), "traceback", traceback, "trace_id", trace,
}
local entry = redis.call("XRANGE", stream, id, id)[1]
if entry then
  for _, part in ipairs(entry[2]) do
    letter[#letter + 1] = part
  end
end
-- Write the dead letter first. If that fails (its key holds another type), the entry stays unfinished.
local added = redis.call("XADD", dead, "*", unpack(letter))
redis.call("HSET", entries, id, "done")
require("lib.retention").trim_dead(redis.call, dead, trimmed, limits, added)
return added
