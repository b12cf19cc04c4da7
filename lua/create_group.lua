-- Create the consumer group of a lane if it is missing, and put the lane on record.
--
-- FLAGS    allow-oom
-- KEYS     1 stream of the lane  2 hash of the partition's leases  3 hash of the lane's entries
-- ARGV     1 group  2 name of the lane
--          3 where a new group starts: "end" = after the last entry; "begin" = at the first one;
--            "topic" = at the first one, or where the other groups of the stream have finished everything before
-- RETURNS  1 when the group was created; 0 when it existed
-- ERRORS   none of its own
-- COST     the number of groups of the stream
-- INVARIANT a group that exists does not change.

local full = require("lib.full")
local retention = require("lib.retention")

local stream, leases, entries = KEYS[1], KEYS[2], KEYS[3]
local group, lane, start = ARGV[1], ARGV[2], ARGV[3]

full.allow_writes(redis.call, leases)
redis.call("HSETNX", leases, "lane " .. lane, "")
local from = "0"
if start == "end" then
  from = "$"
elseif start == "topic" and redis.call("EXISTS", stream) == 1 then
  from = retention.first_needed(redis.call, stream) or "0"
end
local reply = redis.pcall("XGROUP", "CREATE", stream, group, from, "MKSTREAM")
if type(reply) == "table" and reply.err then
  if string.find(reply.err, "^BUSYGROUP") then
    return 0
  end
  return reply
end
redis.call("UNLINK", entries) -- of an earlier group of this name
return 1
