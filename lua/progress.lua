-- Record what the holder of lanes has finished; release lanes.
--
-- FLAGS    allow-oom
-- KEYS     1 hash of the partition's leases
--          2... for each lane: its stream, the hash of its entries
-- ARGV     1 worker id
--          then for each lane: 1 its name  2 tenure  3 group  4 "keep" or "release"  5 low-water mark ("" = unchanged)
--          6 position; "" = the low-water mark
--          7 number of fields to write, then for each: entry id, value; see lib/lease.lua
--          8 number of fields to remove, then for each: entry id
-- RETURNS  for each lane 1; 0 when the tenure does not hold the lane, or -1 when the group is gone: then nothing changed there
-- ERRORS   none of its own
-- COST     the number of entries
-- INVARIANT only the holder of a lane changes its marks.

local lease = require("lib.lease")
local full = require("lib.full")

local leases = KEYS[1]
local worker = ARGV[1]
local FIRST_LANE_KEY, FIRST_LANE_ARGUMENT = 2, 2

local at = FIRST_LANE_ARGUMENT - 1
local function argument()
  at = at + 1
  return ARGV[at]
end

-- Read the next `count` arguments, in parts that fit into one command.
local function parts(count)
  local found = {}
  for index = 1, count do
    if index % 1000 == 1 then
      found[#found + 1] = {}
    end
    found[#found][#found[#found] + 1] = argument()
  end
  return found
end

local function move_mark(stream, group, mark)
  local reply = redis.pcall("XGROUP", "SETID", stream, group, mark)
  return not reply.err
end

full.allow_writes(redis.call, leases)
local outcomes = {}
for key = FIRST_LANE_KEY, #KEYS, 2 do
  local stream, entries = KEYS[key], KEYS[key + 1]
  local lane, tenure, group, mode = argument(), argument(), argument(), argument()
  local mark, position = argument(), argument()
  local written, removed = parts(2 * argument()), parts(argument())
  local outcome = 1
  if not lease.holds(redis.call, leases, worker, lane, tenure) then
    outcome = 0
  elseif mark ~= "" and not move_mark(stream, group, mark) then
    outcome = -1
  else
    for _, fields in ipairs(written) do
      redis.call("HSET", entries, unpack(fields))
    end
    for _, ids in ipairs(removed) do
      redis.call("HDEL", entries, unpack(ids))
    end
    if position ~= "" then
      redis.call("HSET", entries, "position", position)
    elseif mark ~= "" then
      redis.call("HDEL", entries, "position")
    end
    if mode == "release" then
      redis.call("HSET", leases, "lane " .. lane, "")
      redis.call("HDEL", leases, "tenure " .. lane)
    end
  end
  outcomes[#outcomes + 1] = outcome
end
return outcomes
