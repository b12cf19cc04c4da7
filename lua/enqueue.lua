-- Append a message to a topic.
--
-- KEYS     1 stream of the topic's lane  2 hash of what was trimmed from the partition's streams  3 record of the request
--          4 record of the idempotency key, if any
-- ARGV     1 topic  2 key ("" = none)  3 JSON text  4 request id  5 trace id ("" = none)
--          6 "" or, to trim the stream, "<history>:<cap>:<age>": see lib/retention.lua  7 "" or what lib/once.lua takes
-- RETURNS  {id of the stream entry, request id}, and the number of unhandled messages that the hard cap dropped, if any
--          The status SEARCHING: call again; whether the request was applied before is not clear yet.
-- ERRORS   REUSED   UNKNOWN <why>
-- COST     the bytes of the message
-- INVARIANT a message is in the stream once, or not at all.

local stream, trimmed = KEYS[1], KEYS[2]
local topic, key, data, request, trace, limits, again = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]

local function append()
  return redis.call(
    "XADD", stream, "*", "type", "topic", "topic", topic, "key", key, "data", data, "request", request, "trace", trace
  )
end

local first = again == "" and redis.call("EXISTS", KEYS[3]) == 0
if first and limits == "" then
  return { append(), request }
end

-- PARTS

local function append_and_trim()
  local id = append()
  if limits ~= "" then
    local done, lost = pcall(require("lib.retention").trim, redis.call, stream, trimmed, limits)
    if done and lost then
      return { id, request, lost }
    end
  end
  return { id, request }
end

if first then
  return append_and_trim()
end
local once = require("lib.once")
local keys = { record = KEYS[3], key = KEYS[4], stream = stream, trimmed = trimmed, newest = false }
local known = once.before(redis.call, keys, request, again)
if known then
  return known
end
local reply = append_and_trim()
once.after(redis.call, keys, again, reply)
return reply
