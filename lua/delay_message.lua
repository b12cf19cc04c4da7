-- Keep a message until its time, or append it to its topic at once if that has come.
--
-- KEYS     1 stream of the topic's lane  2 hash that records what was trimmed from the partition's streams
--          3 set of the partition's topics  4 record of the request  5 sorted set of what falls due in the partition
--          6 hash of the partition's delayed messages  7 record of the idempotency key, or hash of effects; may be absent
-- ARGV     1 key ("" = none)  2 data (JSON)  3 request id  4 trace id ("" = none)
--          5 "+<milliseconds from now>" or "<Unix milliseconds>"  6 how many messages may wait in the partition
--          7 attempt token: "" for a first attempt without idempotency key; else see lib/dedupe.lua
-- RETURNS  {"-" = the message waits, or the id of its stream entry, request id of the message}
--          with a third element, 0, and a fourth, 1, if the message is the first of its lane (the client then looks whether Redis
--          has lost its data)
--          the status SEARCHING: call again, because the search for an earlier attempt is not finished
-- ERRORS   REUSED   UNKNOWN <reason>   CROWDED
-- COST     the bytes of the message, and the logarithm of the number of things that wait; when it repeats a call, see
--          lib/dedupe.lua
-- INVARIANT a message waits, or is in the stream, once; or it is not there at all. Over maxmemory the message is refused.

local clock = require("lib.clock")
local delayed_messages = require("lib.delayed")

local stream, trimmed, topics, request_record = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local due, delayed, idempotency_record = KEYS[5], KEYS[6], KEYS[7]
local key, data, request, trace = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local at, most, attempt_token = ARGV[5], tonumber(ARGV[6]), ARGV[7]

local function keep_message()
  local now = clock.due_time(redis.call, trimmed)
  -- `now` is rounded down: one millisecond more, so that nothing is early.
  local time = string.sub(at, 1, 1) == "+" and now + string.sub(at, 2) + 1 or tonumber(at)
  local message = { due = string.format("%.0f", time), stream = stream, key = key, trace = trace, data = data }
  if time <= now then
    local entry, is_new = delayed_messages.append(redis.call, topics, request, message)
    return is_new and { entry, request, 0, 1 } or { entry, request }
  end
  local waiting = redis.call("HLEN", delayed)
  if waiting >= most then
    return { err = "CROWDED " .. waiting }
  end
  local is_new = waiting == 0 and redis.call("EXISTS", stream) == 0
  redis.call("ZADD", due, message.due, delayed_messages.member_of(request))
  redis.call("HSET", delayed, request, delayed_messages.encode(message))
  return is_new and { "-", request, 0, 1 } or { "-", request }
end

if attempt_token == "" and redis.call("EXISTS", request_record) == 0 then
  return keep_message()
end

local dedupe = require("lib.dedupe")
local keys = {
  record = request_record, key = idempotency_record, stream = stream, trimmed = trimmed, newest = false, hash = trimmed,
}
if redis.call("HEXISTS", delayed, request) == 1 then -- an earlier attempt, whose reply was lost
  require("lib.full").allow_writes(redis.call, trimmed)
  local reply = { "-", request }
  dedupe.record_reply(redis.call, keys, attempt_token, reply)
  return reply
end
local action, known = dedupe.decide(redis.call, keys, request, attempt_token)
if action == "answer" then
  return known
end
local reply = keep_message()
dedupe.record_reply(redis.call, keys, attempt_token, reply)
return reply
