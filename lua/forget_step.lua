-- Remove what a step has on some streams of one partition: all of the step, or only lanes that no live worker of it wants.
--
-- FLAGS    allow-oom
-- KEYS     1 hash of the partition's leases  2 set of the partition's topics  3 stream of the step's dead letters
--          4 sorted set of what falls due in the partition  5 hash of the step's schedules, see lib/schedules.lua
--          6... for each stream on which the step may have a group: the stream, the hash of the lane's entries
-- ARGV     1 step
--          2 "keep" or "drop": remove the step, and keep or drop its dead letters; "lanes": remove the lanes of the streams only
-- RETURNS  {number of groups removed, number of dead letters that the step had}
-- ERRORS   none of its own
-- COST     the number of streams, of their groups, of the lanes' unfinished entries and of the step's schedules
-- INVARIANT a step whose dead letters are kept stays on record as forgotten, so that they can be found. With "lanes", a lane that
--          a live worker holds stays, and so do other lanes and the dead letters. A topic that no group consumes any more is on
--          record. The stream of the step's cron triggers goes with its group. Works over maxmemory.

local full = require("lib.full")
local lease = require("lib.lease")

local schedules = require("lib.schedules")

local leases, topics, dead, due, known = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local step, mode = ARGV[1], ARGV[2]
local FIRST_STREAM = 6

local function is_held(stream)
  local holder = redis.call("HGET", leases, "lane " .. step .. "\n" .. stream)
  return holder and holder ~= "" and lease.is_alive(redis.call, leases, holder)
end

-- Put the topic of a stream without a group on record; the stream keeps its messages for the next first step.
local function record_topic(stream)
  local topic = string.match(stream, "}:topic:%d+:(.*)$")
  if topic and #redis.call("XINFO", "GROUPS", stream) == 0 then
    redis.call("SADD", topics, topic)
  end
end

local function drop_schedules()
  for _, schedule in ipairs(redis.call("HKEYS", known)) do
    redis.call("ZREM", due, schedules.member_of(step, schedule))
  end
  redis.call("UNLINK", known)
end

full.allow_writes(redis.call, leases) -- Redis 6.2 marks all of XGROUP as taking memory
local groups = 0
for index = FIRST_STREAM, #KEYS, 2 do
  local stream, entries = KEYS[index], KEYS[index + 1]
  if mode ~= "lanes" or not is_held(stream) then
    if redis.call("EXISTS", stream) == 1 then
      groups = groups + redis.call("XGROUP", "DESTROY", stream, step)
      record_topic(stream)
    end
    if schedules.is_stream(stream) then
      redis.call("UNLINK", stream)
      drop_schedules()
    end
    redis.call("UNLINK", entries)
    local lane = step .. "\n" .. stream
    redis.call("HDEL", leases, "lane " .. lane, "tenure " .. lane)
  end
end
local count = redis.call("XLEN", dead)
if mode == "drop" or (mode == "keep" and count == 0) then
  redis.call("UNLINK", dead)
  redis.call("HDEL", leases, "forgotten " .. step)
elseif mode == "keep" then
  redis.call("HSET", leases, "forgotten " .. step, "")
end
return { groups, count }
