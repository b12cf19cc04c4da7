-- Trim a stream without writing to it: for a lane's holder, after a step was forgotten, or when a full server refused a write.
--
-- FLAGS    allow-oom
-- KEYS     1 the stream  2 hash that records what was trimmed from the partition's streams
-- ARGV     1 limits, see lib/retention.lua
-- RETURNS  the number of entries removed; 0 = nothing is left to remove
-- ERRORS   none of its own
-- COST     see lib/retention.lua
-- INVARIANT an entry that a group needs stays, up to the hard cap. Works over maxmemory.

local full = require("lib.full")
local retention = require("lib.retention")

local stream, trimmed = KEYS[1], KEYS[2]
local limits = ARGV[1]

local before = redis.call("XLEN", stream)
if before == 0 then
  return 0
end
full.allow_writes(redis.call, trimmed)
local info, newest = redis.call("XINFO", "STREAM", stream), nil
for index = 1, #info, 2 do
  if info[index] == "last-generated-id" then
    newest = info[index + 1]
  end
end
retention.trim(redis.call, stream, trimmed, limits, newest)
return before - redis.call("XLEN", stream)
