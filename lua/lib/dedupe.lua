-- Ensures that a request is applied once, however often and late its attempts arrive. `call` is redis.call.
--
-- Every repetition leaves a record. With an idempotency key, the first attempt leaves one too. Without a key, the only trace of a
-- first attempt is its event. So a repetition without record searches for the event, back to the time of the first attempt.
-- An attempt that arrives after a later one is rejected. A long search continues in the next call, from where the record says.
-- While the record exists, no attempt can add an event that the search would miss.
--
-- An attempt token is "" for a first attempt without idempotency key, else
-- "<attempt>:<start by the server's clock, milliseconds; 0 = unknown>:<milliseconds since>:<lifetime of the key>:<fingerprint>".
-- For an effect of a handler, "@<id of the call>" stands for the fingerprint, and the key is a hash with that field for a record.
-- The arguments are not compared then: the next attempt of the handler may have others. A first attempt at such a call has the
-- token "@<id of the call, 16 digits><lifetime; empty = the hash keeps its own>"; see lib/effect.lua.
-- The record of a request is "<attempt>\n", then "<revision>\n<text>" once it was applied, or "?<id>" while the search goes on.
-- The record of an idempotency key is "<fingerprint>\n<revision>\n<text>", that of an effect "<revision>\n<text>".
-- Over maxmemory the outcome of an earlier attempt is still found, recorded and returned. No change follows in such a call.
-- A reply without revision is recorded as "\n": the request was valid and there was nothing to change.
--
-- COST of a search: at most MOST_ENTRIES entries or about MOST_BYTES in one call.

local clock = require("lib.clock")
local full = require("lib.full")

local RECORD_LIFETIME = 600000 -- milliseconds in which a delayed attempt may still arrive
local MARGIN = 5000 -- milliseconds by which clocks may differ
local MOST_ENTRIES, MOST_BYTES = 1000, 1024 * 1024 -- that one call reads

local FIRST = { attempt = 1, began = 0, elapsed = 0 } -- the most frequent token says no more

local function parse(attempt_token)
  if attempt_token == "" then
    return FIRST
  elseif string.byte(attempt_token) == 64 then
    local effect, lifetime = string.sub(attempt_token, 2, 17), string.sub(attempt_token, 18)
    return { attempt = 1, began = 0, elapsed = 0, effect = effect, lifetime = lifetime }
  end
  local attempt, began, elapsed, lifetime, kind, name = string.match(attempt_token, "^(%d+):(%d+):(%d+):(%d+):(@?)(%x*)$")
  return {
    attempt = tonumber(attempt or 1), began = tonumber(began or 0), elapsed = tonumber(elapsed or 0),
    lifetime = lifetime, fingerprint = name, effect = kind == "@" and name,
  }
end

local function reply_of_record(record)
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

-- Return the id before an id.
local function id_before(id)
  local ms, sequence = string.match(id, "^(%d+)-(%d+)$")
  if sequence ~= "0" then
    return string.format("%s-%.0f", ms, sequence - 1)
  end
  return string.format("%.0f", ms - 1)
end

-- Return the reply that the change or the message with this event had.
local function reply_of_event(id, fields)
  local kind = field(fields, "type")
  if kind == "topic" then
    return { id, field(fields, "request") }
  end
  return { id, field(fields, kind == "state:deleted" and "old" or "new") }
end

-- Search for the event of a request, from `newest` back to `since`. Return what was found: "event" and the reply that it had;
-- "nothing"; "trimmed" if the event may have been there; or "more" and where the next call continues.
local function find(call, stream, trimmed, request, newest, since)
  local entries, bytes, page = 0, 0, 1
  while true do
    local found = call("XREVRANGE", stream, newest, "-", "COUNT", page)
    for _, entry in ipairs(found) do
      if milliseconds(entry[1]) < since then
        return "nothing"
      end
      if field(entry[2], "request") == request then
        return "event", reply_of_event(entry[1], entry[2])
      end
      for _, part in ipairs(entry[2]) do
        bytes = bytes + #part
      end
    end
    if #found < page then
      break
    end
    entries = entries + #found
    newest = id_before(found[#found][1])
    if entries >= MOST_ENTRIES or bytes >= MOST_BYTES then
      return "more", newest
    end
    page = math.max(1, math.min(MOST_ENTRIES - entries, math.floor((MOST_BYTES - bytes) / (bytes / entries + 1))))
  end
  -- The stream begins after `since`: the event may have been trimmed.
  local floor = call("HGET", trimmed, "floor " .. stream)
  return floor and milliseconds(floor) >= since and "trimmed" or "nothing"
end

-- Record the reply of a repetition, or under an idempotency key. An error reply is not recorded: the caller may try again.
local function remember(call, keys, asked, reply)
  local done = reply.err and "" or (reply[1] or "") .. "\n" .. (reply[2] or "")
  if asked.attempt > 1 then
    call("SET", keys.record, asked.attempt .. "\n" .. done, "PX", RECORD_LIFETIME)
  elseif keys.lifetime and not reply.err then
    call("SET", keys.record, "1\n" .. done, "PX", keys.lifetime)
  end
  if asked.effect then
    require("lib.effect").record(call, keys.key, "@" .. asked.effect .. asked.lifetime, reply, keys.kind, keys.parameter)
  elseif keys.key and not reply.err then
    call("SET", keys.key, asked.fingerprint .. "\n" .. done, "PX", asked.lifetime)
  end
end

-- Return what the record of an effect decides, as `decide` does.
local function decide_by_effect(call, keys, asked, known)
  full.allow_writes(call, keys.hash)
  call("HSET", keys.key, asked.effect, known) -- a write on this connection, so that its WAIT covers the first attempt's
  if asked.lifetime ~= "" then
    call("PEXPIRE", keys.key, asked.lifetime)
  end
  return "answer", reply_of_record(known)
end

-- Return what an idempotency record decides, as `decide` does.
local function decide_by_key(call, keys, asked, known)
  local fingerprint, rest = string.match(known, "^(%x*)\n(.*)$")
  if fingerprint ~= asked.fingerprint then
    return "answer", { err = "REUSED" }
  end
  full.allow_writes(call, keys.hash)
  call("SET", keys.key, known, "KEEPTTL") -- a write on this connection, so that its WAIT covers the first attempt's
  return "answer", reply_of_record(rest)
end

-- Return what the record of a request decides: as `decide` does, or "search" and where the search for its event begins.
local function decide_by_record(call, keys, asked, record)
  local attempt, rest = string.match(record, "^(%d+)\n(.*)$")
  local reply, from = reply_of_record(rest), string.match(rest, "^?(.*)$")
  if reply then
    full.allow_writes(call, keys.hash)
    call("SET", keys.record, record, "PX", RECORD_LIFETIME) -- also after a first attempt, whose record stays for less time
    return "answer", reply
  elseif tonumber(attempt) > asked.attempt or (not from and tonumber(attempt) == asked.attempt) then
    return "answer", unknown("late")
  elseif not from then
    return "apply"
  end
  return "search", from
end

-- Search for the event of a request from the id `from` on, and return what that decides, as `decide` does.
local function decide_by_search(call, keys, asked, request, from)
  local since = clock.now(call) - asked.elapsed
  if asked.began > 0 then
    since = math.min(since, asked.began)
  end
  local outcome, found = find(call, keys.stream, keys.trimmed, request, from, since - MARGIN)
  if outcome == "more" then
    full.allow_writes(call, keys.hash)
    call("SET", keys.record, asked.attempt .. "\n?" .. found, "PX", RECORD_LIFETIME)
    return "answer", { ok = "SEARCHING" }
  elseif outcome == "event" then
    full.allow_writes(call, keys.hash)
    remember(call, keys, asked, found)
    return "answer", found
  elseif outcome == "trimmed" then
    return "answer", unknown("trimmed")
  end
  return "apply"
end

-- A call that may leave no event, or several, has `keys.lifetime` and no stream: its first attempt leaves a record, too.
--
-- Decide what to do with an attempt at a request: "apply", where nothing was written yet; or "answer" and with what: the reply
-- of an earlier attempt, an error, or the status SEARCHING (call again). `keys` has record, key (that of the idempotency key,
-- if any, or the hash of effects), stream, trimmed, newest (the revision of the key; false = none), hash (one of the script, for
-- full.allow_writes), and kind and parameter (see lib/effect.lua).
local function decide(call, keys, request, attempt_token)
  local asked = parse(attempt_token)
  local known = asked.effect and call("HGET", keys.key, asked.effect)
  if known then
    return decide_by_effect(call, keys, asked, known)
  end
  known = keys.key and not asked.effect and call("GET", keys.key)
  if known then
    return decide_by_key(call, keys, asked, known)
  end
  local record = call("GET", keys.record)
  if record then
    local action, found = decide_by_record(call, keys, asked, record)
    if action == "search" then
      return decide_by_search(call, keys, asked, request, found)
    end
    return action, found
  elseif asked.attempt == 1 or not keys.stream then
    return "apply"
  end
  return decide_by_search(call, keys, asked, request, keys.newest or "+")
end

-- Record the reply of a request that ran.
local function record_reply(call, keys, attempt_token, reply)
  remember(call, keys, parse(attempt_token), reply)
end

return { decide = decide, record_reply = record_reply }
