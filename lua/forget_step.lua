-- Remove what a step has in one partition: all of it, or only lanes that no live worker of the step wants.
--
-- KEYS     1 hash of the partition's leases  2 hash of the step's recorded attempts  3 stream of the step's dead letters
--          4 set of the partition's topics   5... streams: all on which the step may have a group, or those of the lanes
-- ARGV     1 step
--          2 "keep" or "drop": remove the step, and keep or drop its dead letters; "lanes": remove the lanes of the streams only
-- RETURNS  {number of groups removed, number of dead letters that the step had}
-- ERRORS   none of its own
-- COST     the number of streams, of lanes in the partition, of the step's recorded attempts and of its pending entries
-- INVARIANT a step whose dead letters are kept stays on record as forgotten, so that they can be found. With "lanes", a lane that
--          a live worker holds stays, and so do other lanes and the dead letters. A topic that no group consumes any more is on
--          record. Works over maxmemory.

local full = require("lib.full")
local lease = require("lib.lease")

local leases, attempts, dead, topics = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local step, mode = ARGV[1], ARGV[2]
local FIRST_STREAM = 5
local only_lanes = mode == "lanes"

full.allow_writes(redis.call, leases) -- Redis 6.2 marks all of XGROUP as taking memory

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

-- Remove the fields of a hash that begin with one of these texts.
local function remove_fields(hash, starts)
  for _, field in ipairs(redis.call("HKEYS", hash)) do
    for _, start in ipairs(starts) do
      if string.sub(field, 1, #start) == start then
        redis.call("HDEL", hash, field)
      end
    end
  end
end

local groups, starts = 0, {}
for index = FIRST_STREAM, #KEYS do
  local stream = KEYS[index]
  if not only_lanes or not is_held(stream) then
    if redis.call("EXISTS", stream) == 1 then
      groups = groups + redis.call("XGROUP", "DESTROY", stream, step)
      record_topic(stream)
    end
    if only_lanes then
      redis.call("HDEL", leases, "lane " .. step .. "\n" .. stream)
      starts[#starts + 1] = step .. "\n" .. stream .. " "
    end
  end
end
local count = redis.call("XLEN", dead)
if only_lanes then
  remove_fields(attempts, starts)
  return { groups, count }
end
remove_fields(leases, { "lane " .. step .. "\n" })
redis.call("UNLINK", attempts)
if mode == "drop" or count == 0 then
  redis.call("UNLINK", dead)
  redis.call("HDEL", leases, "forgotten " .. step)
else
  redis.call("HSET", leases, "forgotten " .. step, "")
end
return { groups, count }
