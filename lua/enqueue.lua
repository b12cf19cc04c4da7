-- Append a message to a topic.
--
-- KEYS     1 stream of the topic's lane  2 hash of the entries that the partition's hard caps dropped
-- ARGV     1 topic  2 key ("" = none)  3 JSON text  4 request id  5 trace id ("" = none)
--          6 "<history>:<cap>:<age>": see lib/retention.lua
-- RETURNS  {id of the stream entry, request id}, and the number of unhandled messages that the hard cap dropped, if any
-- COST     the bytes of the message
-- INVARIANT a message is in the stream once, or not at all.

local stream, dropped = KEYS[1], KEYS[2]
local topic, key, data, request, trace, history = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

local id = redis.call(
  "XADD", stream, "*", "type", "topic", "topic", topic, "key", key, "data", data, "request", request, "trace", trace
)
if string.find(request, "[048c]0$") then -- one message in 64, as in mutate.lua
  local done, lost = pcall(require("lib.retention").trim, redis.call, stream, dropped, history)
  if done and lost then
    return { id, request, lost }
  end
end
return { id, request }
