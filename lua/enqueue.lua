-- Append a message to a topic.
--
-- KEYS     1 stream of the topic's lane  2 hash that records what was trimmed from the partition's streams
--          3 set of the partition's topics  4 record of the request
--          5 record of the idempotency key, or hash of effects, see lib/dedupe.lua; absent without either
-- ARGV     1 topic  2 key ("" = none)  3 data (JSON)  4 request id  5 trace id ("" = none)
--          6 "" = do not trim; else the limits, see lib/retention.lua
--          7 attempt token: "" for a first attempt without idempotency key; else see lib/dedupe.lua
-- RETURNS  {id of the stream entry, request id of the message}
--          with a third element, the number of unhandled messages that a cap dropped, if it dropped any; and with a fourth, 1, if
--          the message made the stream (the client then looks whether Redis has lost its data). The third is then 0 or more
--          the status SEARCHING: call again, because the search for an earlier attempt is not finished
-- ERRORS   REUSED   UNKNOWN <reason>
-- COST     the bytes of the message; when it trims, see lib/retention.lua; when it repeats a call, see lib/dedupe.lua
-- INVARIANT a message is in the stream once, or not at all. The set of topics holds every topic whose stream was made here. Over
--          maxmemory the message is refused.

local stream, trimmed, topics = KEYS[1], KEYS[2], KEYS[3]
local request_record, idempotency_record = KEYS[4], KEYS[5]
local topic, key, data, request, trace = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local limits, attempt_token = ARGV[6], ARGV[7]

-- Append the message with its fields (docs/format.md lists them; one that would be empty is left out) and return the reply.
local function append(...)
  local id = redis.call("XADD", stream, "NOMKSTREAM", "*", "type", "topic", "topic", topic, "data", data, "request", request, ...)
  if id then
    return { id, request }
  end
  redis.call("SADD", topics, topic)
  id = redis.call("XADD", stream, "*", "type", "topic", "topic", topic, "data", data, "request", request, ...)
  return { id, request, 0, 1 }
end

local function append_message()
  if key == "" and trace == "" then
    return append()
  elseif trace == "" then
    return append("key", key)
  elseif key == "" then
    return append("trace", trace)
  end
  return append("key", key, "trace", trace)
end

local is_effect = false -- a call of a handler that was not made before, see lib/effect.lua
if string.byte(attempt_token) == 64 then
  is_effect = not redis.call("HGET", idempotency_record, string.sub(attempt_token, 2, 17))
end
local first = (attempt_token == "" or is_effect) and redis.call("EXISTS", request_record) == 0
if first and limits == "" then
  local reply = append_message()
  return is_effect and require("lib.effect").record(redis.call, idempotency_record, attempt_token, reply) or reply
end

-- PARTS

local function append_and_trim()
  local reply = append_message()
  if limits ~= "" then
    local done, lost = pcall(require("lib.retention").trim, redis.call, stream, trimmed, limits, reply[1])
    if done and lost then
      reply[3] = lost
    end
  end
  return reply
end

if first then
  local reply = append_and_trim()
  return is_effect and require("lib.effect").record(redis.call, idempotency_record, attempt_token, reply) or reply
end
local dedupe = require("lib.dedupe")
local keys = {
  record = request_record, key = idempotency_record, stream = stream, trimmed = trimmed, newest = false, hash = trimmed,
}
local action, known = dedupe.decide(redis.call, keys, request, attempt_token)
if action == "answer" then
  return known
end
local reply = append_and_trim()
dedupe.record_reply(redis.call, keys, attempt_token, reply)
return reply
