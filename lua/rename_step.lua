-- Give what a step has in one partition to another name: positions, what is known of entries, dead letters, cron schedules.
--
-- FLAGS    allow-oom
-- KEYS     1 hash of the partition's leases  2 stream of the old name's dead letters  3 stream of the new name's dead letters
--          4 sorted set of what falls due in the partition  5 hash of the old name's schedules  6 hash of the new name's
--          7... for each stream on which the step may have a group: the stream, its new name (another one for that of the step's
--          cron triggers), the hashes of the lane's entries by both names
-- ARGV     1 old name  2 new name  3 an identity that no step has had, for the next step of the old name
-- RETURNS  {number of groups renamed, number of dead letters}; -1 = the new name has groups or dead letters: nothing changed
-- ERRORS   none of its own
-- COST     the number of streams, of the groups of each, and of the step's schedules
-- INVARIANT a group keeps its position, and the step its identity (see lib/lease.lua). Works over maxmemory.

local full = require("lib.full")
local groups = require("lib.groups")
local schedules = require("lib.schedules")

local leases, dead, new_dead = KEYS[1], KEYS[2], KEYS[3]
local due, known, new_known = KEYS[4], KEYS[5], KEYS[6]
local old, new, next_identity = ARGV[1], ARGV[2], ARGV[3]
local FIRST_STREAM = 7

if redis.call("EXISTS", new_dead) == 1 then
  return -1
end
for index = FIRST_STREAM, #KEYS, 4 do
  local taken = groups.last_delivered(redis.call, KEYS[index + 1], new)
  if taken then
    return -1
  end
end
full.allow_writes(redis.call, leases)
local renamed = 0
for index = FIRST_STREAM, #KEYS, 4 do
  local stream, new_stream, entries, new_entries = unpack(KEYS, index, index + 3)
  local mark = groups.last_delivered(redis.call, stream, old)
  if mark then
    if new_stream ~= stream then
      redis.call("RENAME", stream, new_stream)
    end
    redis.call("XGROUP", "CREATE", new_stream, new, mark)
    redis.call("XGROUP", "DESTROY", new_stream, old)
    if redis.call("EXISTS", entries) == 1 then
      redis.call("RENAME", entries, new_entries)
    end
    local lane = old .. "\n" .. stream
    redis.call("HDEL", leases, "lane " .. lane, "tenure " .. lane)
    redis.call("HSET", leases, "lane " .. new .. "\n" .. new_stream, "")
    renamed = renamed + 1
  end
end
for _, schedule in ipairs(redis.call("HKEYS", known)) do
  local member = schedules.member_of(old, schedule)
  local time = redis.call("ZSCORE", due, member)
  if time then
    redis.call("ZREM", due, member)
    redis.call("ZADD", due, time, schedules.member_of(new, schedule))
  end
end
if redis.call("EXISTS", known) == 1 then
  redis.call("RENAME", known, new_known)
end
local letters = redis.call("XLEN", dead)
if letters > 0 then
  redis.call("RENAME", dead, new_dead)
end
redis.call("HDEL", leases, "forgotten " .. old)
if renamed > 0 or letters > 0 then
  local identity = redis.call("HGET", leases, "identity " .. old) or old
  redis.call("HSET", leases, "identity " .. new, identity, "identity " .. old, next_identity)
end
if letters > 0 and renamed == 0 then
  redis.call("HSET", leases, "forgotten " .. new, "")
end
return { renamed, letters }
