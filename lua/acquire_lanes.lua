-- Acquire lanes of one partition, and return what their groups have finished.
--
-- FLAGS    allow-oom
-- KEYS     1 hash of the partition's leases
--          2... for each lane: its stream, the hash of its entries
-- ARGV     1 worker id
--          2... for each lane: its name, its group, the tenure that the worker would hold it by, and
--            "" = take the lane if nobody holds it; "check" = do not take it; "moved" = take it only if the worker holds it, and
--            its position was moved;
--            "<worker id>\n<tenure>\n<lease>" = also take it from this holder, if its lease was not renewed since
-- RETURNS  for each lane one of
--          {"taken", "free" or "dead" = from a holder whose lease ran out, low-water mark, server time (milliseconds), length of
--            the stream, bytes of the stream, identity of the step (see lib/lease.lua), field, value, field, value, ... of the
--            hash of its entries}
--          {"kept"} = the worker holds the lane by this tenure
--          {"moved"} = the worker holds the lane, and its position was moved: see lib/lease.lua
--          {"busy", id of the holder ("" = none), its tenure, its lease}
--          {"missing"} = the stream has no such group
-- ERRORS   none of its own
-- COST     the number of lanes, of the groups of their streams, and of the fields of their entries
-- INVARIANT a lane has at most one holder.

local clock = require("lib.clock")
local full = require("lib.full")
local groups = require("lib.groups")
local lease = require("lib.lease")

local leases = KEYS[1]
local worker = ARGV[1]
local FIRST_LANE_KEY, FIRST_LANE_ARGUMENT = 2, 2
local now

-- Return the reply for a lane that is not to be taken; nil for one that is, and from whom.
local function refuse(lane, tenure, claim)
  local found = redis.call("HMGET", leases, "lane " .. lane, "tenure " .. lane)
  local holder, since = found[1] or "", found[2] or ""
  if holder == worker and since == tenure then
    return { "kept" }
  end
  local is_moved = holder == worker and since == lease.MOVED
  if is_moved and claim ~= "moved" then
    return { "moved" }
  end
  local expiry = holder ~= "" and redis.call("HGET", leases, "worker " .. holder) or ""
  local from = "free" -- also its own, by a tenure whose reply was lost
  if holder ~= "" and holder ~= worker then
    from = claim == holder .. "\n" .. since .. "\n" .. expiry and "dead" or nil
  end
  if claim == "check" or not from or (claim == "moved" and not is_moved) then
    return { "busy", holder, since, expiry }
  end
  return nil, from
end

local function acquire(stream, entries, lane, group, tenure, claim)
  local refusal, from = refuse(lane, tenure, claim)
  if refusal then
    return refusal
  end
  local mark = groups.last_delivered(redis.call, stream, group)
  if not mark then
    return { "missing" }
  end
  redis.call("HSET", leases, "lane " .. lane, worker, "tenure " .. lane, tenure)
  local bytes = redis.pcall("MEMORY", "USAGE", stream, "SAMPLES", "5") -- a user may lack the right
  bytes = type(bytes) == "number" and bytes or 0
  local identity = redis.call("HGET", leases, "identity " .. group) or group
  local reply = { "taken", from, mark, string.format("%.0f", now), redis.call("XLEN", stream), bytes, identity }
  for _, part in ipairs(redis.call("HGETALL", entries)) do -- more than `unpack` may return
    reply[#reply + 1] = part
  end
  return reply
end

full.allow_writes(redis.call, leases)
now = clock.now(redis.call)
local outcomes = {}
for key = FIRST_LANE_KEY, #KEYS, 2 do
  local at = FIRST_LANE_ARGUMENT + (key - FIRST_LANE_KEY) / 2 * 4
  outcomes[#outcomes + 1] = acquire(KEYS[key], KEYS[key + 1], ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
end
return outcomes
