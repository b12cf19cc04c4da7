-- Remove what a step has on some streams of one partition: consumer groups, and what is known of entries. Trim these streams.
--
-- KEYS     1 hash of the partition's leases  2 hash that records what was trimmed  3 stream of the step's dead letters
--          4... for each stream on which the step may have a group: the stream, the hash of the lane's entries
-- ARGV     1 step  2 "lanes" = only these streams; else the whole step, with "keep" or "drop" = what to do with the dead letters
-- RETURNS  {number of groups removed, number of dead letters that the step had}
-- ERRORS   none of its own
-- COST     the number of streams, of their groups and of lanes in the partition; for each stream see lib/retention.lua
-- INVARIANT a step whose dead letters are kept stays on record as forgotten, so that they can be found. Works over
--          maxmemory.

local full = require("lib.full")
local retention = require("lib.retention")

local leases, trimmed, dead = KEYS[1], KEYS[2], KEYS[3]
local step, mode = ARGV[1], ARGV[2]
local FIRST_STREAM = 4

full.allow_writes(redis.call, leases) -- Redis 6.2 marks all of XGROUP as taking memory
local groups = 0
for index = FIRST_STREAM, #KEYS, 2 do
  local stream = KEYS[index]
  if redis.call("EXISTS", stream) == 1 then
    local removed = redis.call("XGROUP", "DESTROY", stream, step)
    if removed == 1 then
      groups = groups + 1
      retention.trim_to_needed(redis.call, stream, trimmed)
    end
  end
  redis.call("UNLINK", KEYS[index + 1])
  local lane = step .. "\n" .. stream
  redis.call("HDEL", leases, "lane " .. lane, "tenure " .. lane)
end
local count = redis.call("XLEN", dead)
if mode == "drop" or (mode == "keep" and count == 0) then
  redis.call("UNLINK", dead)
  redis.call("HDEL", leases, "forgotten " .. step)
elseif mode == "keep" then
  redis.call("HSET", leases, "forgotten " .. step, "")
end
return { groups, count }
