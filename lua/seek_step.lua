-- Let a step go on from another place in the lanes of one partition: handle entries again, or skip entries.
--
-- FLAGS    allow-oom
-- KEYS     1 hash of the partition's leases
--          2... for each lane: its stream, the hash of its entries
-- ARGV     1 step  2 id up to which every entry counts as handled from then on
--          3 "keep": what is not handled up to there stays to be handled; "skip": it does not
--          4 "look" = change nothing; "move"
-- RETURNS  {1 when the lanes were moved; 0 when nothing changed: for "look", or because a handler of an entry of them still runs
--          at a worker that has given the lane away,
--          for each lane {}: it has no group, or else {position before, number of unfinished entries up to ARGV 2, number of
--          those after it and up to the position, the worker that runs an entry that it gave away ("" = none)}}
-- ERRORS   none of its own
-- COST     the number of lanes, of the groups of their streams, and of the fields of their entries; the bytes of two entries
-- INVARIANT the holder of a lane that was moved keeps it, but can record nothing by its tenure: it has to acquire the lane again.
--          It learns so when it renews its lease, or when it records something. No entry that the group needs then is trimmed.

local full = require("lib.full")
local groups = require("lib.groups")
local ids = require("lib.ids")
local lease = require("lib.lease")

local leases = KEYS[1]
local step, target, policy, mode = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local FIRST_LANE_KEY = 2

-- Look at what is known of the entries of a lane: count, and find what is to be removed and who still runs an entry.
local function sort_entries(lane, known)
  for id, value in pairs(known) do
    if string.find(id, "^%d+%-%d+$") then
      local is_after = ids.is_before(lane.to, id)
      if value ~= "done" and not ids.is_before(lane.position, id) then
        lane.after = lane.after + (is_after and 1 or 0)
        lane.before = lane.before + (is_after and 0 or 1)
      end
      if is_after and lane.is_back or not is_after and policy == "skip" then
        lane.removed[#lane.removed + 1] = id
      end
      local owner = string.match(value, "^%d+:%d+:(.+)$")
      if owner and lease.is_alive(redis.call, leases, owner) then
        lane.owner = owner
      end
    end
  end
end

-- Return what is to be done with a lane; nil = it has no group.
local function plan(stream, entries)
  local mark = groups.last_delivered(redis.call, stream, step)
  if not mark then
    return nil
  end
  local last = groups.by_name(redis.call("XINFO", "STREAM", stream))["last-generated-id"]
  local known = groups.by_name(redis.call("HGETALL", entries))
  local lane = { stream = stream, entries = entries, removed = {}, before = 0, after = 0, owner = "" }
  lane.to = ids.is_before(last, target) and last or target -- after a jump of the clock, the next id may be below the target
  lane.position = known.position or mark
  lane.is_back = ids.is_before(lane.to, lane.position)
  lane.moves = lane.is_back or policy == "skip"
  lane.restarts = policy == "skip" or ids.is_before(lane.to, mark) -- no unfinished entry stays up to the target
  sort_entries(lane, known)
  return lane
end

local function move(lane)
  local name = step .. "\n" .. lane.stream
  for _, id in ipairs(lane.removed) do
    redis.call("HDEL", lane.entries, id)
  end
  if lane.restarts then
    redis.call("XGROUP", "SETID", lane.stream, step, lane.to)
    redis.call("HDEL", lane.entries, "position")
  else
    redis.call("HSET", lane.entries, "position", lane.to)
  end
  local holder = redis.call("HGET", leases, "lane " .. name)
  if holder and holder ~= "" then
    redis.call("HSET", leases, "tenure " .. name, lease.MOVED)
    if lease.is_alive(redis.call, leases, holder) then
      redis.call("HSET", leases, "moved " .. holder, "")
    end
  end
end

local reply, lanes, may_move = { 0 }, {}, mode == "move"
for key = FIRST_LANE_KEY, #KEYS, 2 do
  local lane = plan(KEYS[key], KEYS[key + 1])
  reply[#reply + 1] = lane and { lane.position, lane.before, lane.after, lane.owner } or {}
  lanes[#lanes + 1] = lane
  may_move = may_move and not (lane and lane.moves and lane.owner ~= "")
end
if may_move then
  full.allow_writes(redis.call, leases)
  for _, lane in ipairs(lanes) do
    if lane.moves then
      move(lane)
    end
  end
  reply[1] = 1
end
return reply
