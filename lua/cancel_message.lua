-- Remove a message that waits for its time.
--
-- FLAGS    allow-oom
-- KEYS     1 sorted set of what falls due in the partition  2 hash of the partition's delayed messages
--          3 record of the request that sent the message
-- ARGV     1 id of the message  2 request id of this call
-- RETURNS  1 when this call, or an earlier attempt at it, removed the message; 0 when the message does not wait
-- ERRORS   none of its own
-- COST     the logarithm of the number of things that wait
-- INVARIANT a cancelled message is not sent, also not by a late repetition of the call that sent it. Works over maxmemory.

local delayed_messages = require("lib.delayed")

local due, delayed, request_record = KEYS[1], KEYS[2], KEYS[3]
local id, request = ARGV[1], ARGV[2]

local RECORD_LIFETIME = 600000 -- milliseconds, as in lib/dedupe.lua

local cancelled = "cancelled " .. request
if redis.call("HDEL", delayed, id) == 1 then
  redis.call("ZREM", due, delayed_messages.member_of(id))
  -- The reply for a repetition of the call that sent the message, as lib/dedupe.lua reads it. So no such call sends it again.
  redis.call("SET", request_record, "1\n" .. cancelled .. "\n" .. id, "PX", RECORD_LIFETIME)
  return 1
end
local record = redis.call("GET", request_record)
return record and string.match(record, "^1\n([^\n]*)\n") == cancelled and 1 or 0
