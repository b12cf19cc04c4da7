-- Remove a message that waits for its time.
--
-- FLAGS    allow-oom
-- KEYS     1 sorted set of what falls due in the partition  2 hash of the partition's delayed messages
--          3 record of the request that sent the message  4 hash of effects, see lib/dedupe.lua; may be absent
-- ARGV     1 id of the message  2 request id of this call  3 attempt token, see lib/dedupe.lua; only read with KEYS 4
-- RETURNS  1 when this call removed the message, or an earlier attempt at it, or at its handler; 0 when the message does not wait
-- ERRORS   none of its own
-- COST     the logarithm of the number of things that wait
-- INVARIANT a cancelled message is not sent, also not by a late repetition of the call that sent it. Works over maxmemory.

local delayed_messages = require("lib.delayed")

local due, delayed, request_record, effects = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, request, attempt_token = ARGV[1], ARGV[2], ARGV[3]

local RECORD_LIFETIME = 600000 -- milliseconds, as in lib/dedupe.lua

local lifetime, effect = string.match(attempt_token, "^%d+:%d+:%d+:(%d+):@(%x*)$") -- of a repetition
attempt_token = effect and "@" .. effect .. lifetime or attempt_token

local function record(removed)
  if effects then
    require("lib.full").allow_writes(redis.call, delayed)
    require("lib.effect").record(redis.call, effects, attempt_token, { removed })
  end
  return removed
end

local known = effects and redis.call("HGET", effects, string.sub(attempt_token, 2, 17))
if known then
  return record(tonumber(string.match(known, "^%d")))
end
local cancelled = "cancelled " .. request
if redis.call("HDEL", delayed, id) == 1 then
  redis.call("ZREM", due, delayed_messages.member_of(id))
  -- The reply for a repetition of the call that sent the message, as lib/dedupe.lua reads it. So no such call sends it again.
  redis.call("SET", request_record, "1\n" .. cancelled .. "\n" .. id, "PX", RECORD_LIFETIME)
  return record(1)
end
local sent = redis.call("GET", request_record)
return record(sent and string.match(sent, "^1\n([^\n]*)\n") == cancelled and 1 or 0)
