-- Append a message to a topic.
--
-- KEYS     1 stream of the topic's lane
-- ARGV     1 topic  2 key ("" = none)  3 JSON text  4 request id  5 trace id ("" = none)
--          6 messages that a lane keeps when nobody needs them
-- RETURNS  the id of the stream entry (unique in its lane; the request id is unique everywhere)
-- COST     the bytes of the message
-- INVARIANT a message is in the stream once, or not at all.

local stream = KEYS[1]
local topic, key, data, request, trace, history = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])

local id = redis.call(
  "XADD", stream, "*", "type", "topic", "topic", topic, "key", key, "data", data, "request", request, "trace", trace
)
if string.find(request, "[048c]0$") then -- one message in 64, as in mutate.lua
  require("lib.retention").trim(redis.call, stream, history)
end
return id
