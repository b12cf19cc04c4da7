-- Append a message to a topic.
--
-- KEYS     1 stream of the topic's lane  2 hash of what was trimmed from the partition's streams  3 record of the request
--          4 record of the idempotency key, if any
-- ARGV     1 topic  2 key ("" = none)  3 JSON text  4 request id  5 trace id ("" = none)
--          6 "<history>:<cap>:<age>": see lib/retention.lua  7 "" or what lib/once.lua takes
-- RETURNS  {id of the stream entry, request id}, and the number of unhandled messages that the hard cap dropped, if any
--          The status SEARCHING: call again; whether the request was applied before is not clear yet.
-- ERRORS   REUSED   UNKNOWN <why>
-- COST     the bytes of the message
-- INVARIANT a message is in the stream once, or not at all.

local stream, trimmed = KEYS[1], KEYS[2]
local topic, key, data, request, trace, history, again = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]

local function append()
  local id = redis.call(
    "XADD", stream, "*", "type", "topic", "topic", topic, "key", key, "data", data, "request", request, "trace", trace
  )
  if string.find(request, "[048c]0$") then -- one message in 64, as in mutate.lua
    local done, lost = pcall(require("lib.retention").trim, redis.call, stream, trimmed, history)
    if done and lost then
      return { id, request, lost }
    end
  end
  return { id, request }
end

if again == "" and redis.call("EXISTS", KEYS[3]) == 0 then
  return append()
end
local once = require("lib.once")
local keys = { record = KEYS[3], key = KEYS[4], stream = stream, trimmed = trimmed, newest = false }
local known = once.before(redis.call, keys, request, again)
if known then
  return known
end
local reply = append()
once.after(redis.call, keys, again, reply)
return reply
