-- Delayed messages: how they are kept, and how they get into their stream. `call` is redis.call.
--
-- The hash `delayed` of a partition holds for each message that waits, by its id:
-- "<due, Unix milliseconds>:<bytes of the stream's name>:<bytes of the key>:<bytes of the trace id>\n", and then, with nothing in
-- between, the name of its stream without the hash tag (topic:<lane>:<topic>), its key, its trace id and its data.
-- The sorted set `due` has the member "message:<id>" with the time as its score.

local function member_of(id)
  return "message:" .. id
end

-- Return the record of a message. `message` has due (a string), stream (with the hash tag), key, trace ("" = none) and data.
local function encode(message)
  local name = string.match(message.stream, "}:(topic:.*)$")
  local sizes = string.format("%s:%d:%d:%d\n", message.due, #name, #message.key, #message.trace)
  return sizes .. name .. message.key .. message.trace .. message.data
end

-- Return the message of a record, or nil if another client wrote the record. `tag` is the hash tag of the partition's keys.
local function decode(record, tag)
  local due, name, key, trace, first = string.match(record, "^(%d+):(%d+):(%d+):(%d+)\n()")
  if not due then
    return nil
  end
  local at_key = first + name
  local at_trace = at_key + key
  local at_data = at_trace + trace
  return {
    due = due, stream = tag .. string.sub(record, first, at_key - 1), key = string.sub(record, at_key, at_trace - 1),
    trace = string.sub(record, at_trace, at_data - 1), data = string.sub(record, at_data),
  }
end

-- Append a message to its stream. Return the reply of XADD, which may be an error, and whether the stream is new. `call` may be
-- redis.pcall. COST: the bytes of the message.
local function append(call, topics, id, message)
  local topic = string.match(message.stream, "}:topic:%d+:(.*)$")
  local fields = { "type", "topic", "topic", topic, "data", message.data, "request", id }
  local function add(name, value)
    if value ~= "" then
      fields[#fields + 1] = name
      fields[#fields + 1] = value
    end
  end
  add("key", message.key)
  add("trace", message.trace)
  add("due", message.due)
  local entry = call("XADD", message.stream, "NOMKSTREAM", "*", unpack(fields))
  if entry then
    return entry, false
  end
  call("SADD", topics, topic)
  return call("XADD", message.stream, "*", unpack(fields)), true
end

return { member_of = member_of, encode = encode, decode = decode, append = append }
