-- That a request is applied once, however often and late its attempts arrive. `call` is redis.call.
--
-- Only a first attempt can have been applied without a trace of its request but the event: every repetition leaves a record, an
-- idempotency key from the first attempt on. So a repetition without record looks for the event, back to the time of the first
-- attempt; and an attempt that comes when a later one has been here is void. A long look goes on with the next call: the record
-- says how far it came, and since it stands there nothing can be added that would have to be looked at.
--
-- `again` is "" for a first attempt without idempotency key, else
-- "<attempt>:<began, server's clock, milliseconds; 0 = unknown>:<milliseconds since>:<lifetime of the key>:<fingerprint>".
-- The record of a request:          "<attempt>\n" and "<revision>\n<text>" once it was applied, "?<id>" while it is looked for
-- The record of an idempotency key: "<fingerprint>\n<revision>\n<text>"
-- An outcome without revision is "\n": the request was right and found nothing to do.

local RECORD_LIFETIME = 600000 -- milliseconds in which a lost attempt may still arrive
local MARGIN = 5000 -- milliseconds that clocks may drift apart
local MOST_ENTRIES, MOST_BYTES = 1000, 1024 * 1024 -- that one call looks at

local function parse(again)
  local attempt, began, elapsed, lifetime, fingerprint = string.match(again, "^(%d+):(%d+):(%d+):(%d+):(%x*)$")
  return {
    attempt = tonumber(attempt or 1), began = tonumber(began or 0), elapsed = tonumber(elapsed or 0),
    lifetime = lifetime, fingerprint = fingerprint,
  }
end

local function outcome(record)
  local revision, text = string.match(record, "^([^\n]*)\n(.*)$")
  if not revision then
    return nil
  end
  return revision == "" and {} or { revision, text }
end

local function unknown(why)
  return { err = "UNKNOWN " .. why }
end

local function field(fields, name)
  for index = 1, #fields, 2 do
    if fields[index] == name then
      return fields[index + 1]
    end
  end
end

local function milliseconds(id)
  return tonumber(string.match(id, "^(%d+)"))
end

-- The reply that a change, or a message, had.
local function reply_of(id, fields)
  local kind = field(fields, "type")
  if kind == "topic" then
    return { id, field(fields, "request") }
  end
  return { id, field(fields, kind == "state:deleted" and "old" or "new") }
end

-- Look for the event of a request, from `newest` back to `since`. Returns its reply, or from where on the next call has to look.
local function find(call, stream, trimmed, request, newest, since)
  local entries, bytes, page = 0, 0, 1
  while true do
    local found = call("XREVRANGE", stream, newest, "-", "COUNT", page)
    for _, entry in ipairs(found) do
      if milliseconds(entry[1]) < since then
        return nil
      end
      if field(entry[2], "request") == request then
        return reply_of(entry[1], entry[2])
      end
      for _, part in ipairs(entry[2]) do
        bytes = bytes + #part
      end
    end
    if #found < page then
      break
    end
    entries = entries + #found
    local ms, sequence = string.match(found[#found][1], "^(%d+)-(%d+)$")
    if sequence ~= "0" then
      newest = string.format("%s-%.0f", ms, sequence - 1)
    else
      newest = string.format("%.0f", ms - 1)
    end
    if entries >= MOST_ENTRIES or bytes >= MOST_BYTES then
      return nil, newest
    end
    page = math.max(1, math.min(MOST_ENTRIES - entries, math.floor((MOST_BYTES - bytes) / (bytes / entries + 1))))
  end
  -- The stream begins later than that: what came before may have been trimmed.
  local floor = call("HGET", trimmed, "floor " .. stream)
  if floor and milliseconds(floor) >= since then
    return unknown("trimmed")
  end
  return nil
end

-- Record a reply, of a repetition or under an idempotency key. An error reply is none: what was refused may be tried again.
local function remember(call, keys, asked, reply)
  local done = reply.err and "" or (reply[1] or "") .. "\n" .. (reply[2] or "")
  if asked.attempt > 1 then
    call("SET", keys.record, asked.attempt .. "\n" .. done, "PX", RECORD_LIFETIME)
  end
  if keys.key and not reply.err then
    call("SET", keys.key, asked.fingerprint .. "\n" .. done, "PX", asked.lifetime)
  end
end

-- What to answer instead of running the request: a reply, an error, or the status SEARCHING: call again. nil = run it. `keys` has
-- record, key (the idempotency key's record, if any), stream, trimmed and newest: the key's revision, false = there is none.
local function before(call, keys, request, again)
  local asked = parse(again)
  local known = keys.key and call("GET", keys.key)
  if known then
    local fingerprint, rest = string.match(known, "^(%x*)\n(.*)$")
    if fingerprint ~= asked.fingerprint then
      return { err = "REUSED" }
    end
    call("SET", keys.key, known, "KEEPTTL") -- a write of this connection, so that its WAIT covers the first
    return outcome(rest)
  end
  local from = keys.newest or "+"
  local record = call("GET", keys.record)
  if record then
    local attempt, rest = string.match(record, "^(%d+)\n(.*)$")
    local reply = outcome(rest)
    if reply then
      call("SET", keys.record, record, "KEEPTTL")
      return reply
    end
    from = string.match(rest, "^?(.*)$")
    if tonumber(attempt) > asked.attempt or not from then
      return tonumber(attempt) >= asked.attempt and unknown("late") or nil
    end
  elseif asked.attempt == 1 then
    return nil
  end
  local time = call("TIME")
  local since = time[1] * 1000 + math.floor(time[2] / 1000) - asked.elapsed
  if asked.began > 0 then
    since = math.min(since, asked.began)
  end
  since = since - MARGIN
  local found, rest = find(call, keys.stream, keys.trimmed, request, from, since)
  if rest then
    call("SET", keys.record, asked.attempt .. "\n?" .. rest, "PX", RECORD_LIFETIME)
    return { ok = "SEARCHING" }
  end
  if found and not found.err then
    remember(call, keys, asked, found)
  end
  return found
end

-- Record what running the request gave.
local function after(call, keys, again, reply)
  remember(call, keys, parse(again), reply)
end

return { before = before, after = after }
