-- Check and change several values, and append messages, in one atomic step.
--
-- KEYS     1 record of the request  2 hash that records what was trimmed from the streams  3 sorted set of what falls due
--          4 set of the partition's scopes  5 set of the partition's topics  6 record of the idempotency key, or KEYS 1 again
--          7... what the items name by their numbers: hashes of values, hashes of revisions, streams. All lie in one partition.
--          The name of KEYS 1 ends with the request id, and those of the values' hashes with the scope
-- ARGV     1 options, one a line: trace id; the most bytes of old and new values together; attempt token (lib/dedupe.lua);
--            milliseconds for which the record of a first attempt stays; limits of event streams and of topics, "" = do not trim
--          2... the items. Each begins with its head, one field a line, and has its parameters behind it:
--            "check\n<values>\n<revisions>\n<stream>\n<parameters>\n"   key, expected revision or "none"
--            "<kind>\n<values>\n<revisions>\n<stream>\n<parameters>\n<ttl>"  key, then the parameters of a set, drop, update or
--                                                                         strict update, and the ttl, as in mutate.lua
--            "message\n0\n0\n<stream>\n<parameters>\n\n"                  topic, key ("" = none), data, message id
-- RETURNS  {a word for each item, the texts of the updates}, and what follows them in the reply of mutate.lua
--          A word is the revision of the change; where there was nothing to change, that of the value ("0-0" if another client
--          wrote it), or "-" if there is none; "-" for a check; the id of a message. The texts are "<bytes>:<text>", one
--          after the other. The status SEARCHING does not occur: a request always leaves a record
-- ERRORS   OVERSIZE <bytes>   REUSED   UNKNOWN <reason>
--          TRANSACTION <index of the item, from 0> and one of these errors of mutate.lua: CONFLICT   TOOLARGE   CORRUPT
--          KEYMISSING   PATHMISSING   BADINDEX   WRONGKIND   TESTFAILED   OVERFLOW   TOODEEP   TOOMUCH
-- COST     the bytes of the old and the new values; updates: together what one may cost, see lib/patch.lua
-- INVARIANT either nothing changes, or all of it does, as in mutate.lua. Checks see the values as they were before. Several
--          changes of a key are one change: one event, from the first text to the last. All is planned before the first write,
--          and every key is read before it, so that no write fails half way. A stream that cannot take its event undoes those
--          before it. Over maxmemory all is refused, but for deletions alone.

local request_record, trimmed, due, scopes, topics, idempotency_record = unpack(KEYS, 1, 6)
local options = ARGV[1]
local FIRST_NAME, FIRST_ITEM = 7, 2

local OPTIONS = "^([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)$"
local trace, most_bytes, attempt_token, lifetime, event_limits, topic_limits = string.match(options, OPTIONS)

local sub = string.sub
local _, tag = string.find(request_record, "}:", 1, true)
local request = sub(request_record, tag + 9) -- behind "request:"

local dedupe, expiry, full, plan = require("lib.dedupe"), require("lib.expiry"), require("lib.full"), require("lib.plan")

local bytes = 0 -- of the old and new values so far
local budget = { cost = 0 } -- of the updates
local only_deletes = true -- whether the call may run over maxmemory
local places, sequence = {}, {} -- the keys: by hash and name; the keys and messages in the order of their events
local words, texts = {}, {}
local now_is

-- End the planning with an error of the caller.
local function fail(text)
  error({ failure = text }, 0)
end

local function count_bytes(text)
  bytes = bytes + #text
  if bytes > most_bytes + 0 then
    fail("OVERSIZE " .. string.format("%.0f", bytes))
  end
end

-- The time by which values expire: one for the whole call.
local function now()
  now_is = now_is or expiry.now(redis.pcall, trimmed)
  return now_is
end

-- Return what is known of a key: `original` and `revision` before the transaction, `text` after the items so far (false = no
-- value). Its keys are those of lib/write.lua.
local function open(values, revisions, stream, key)
  local id = values .. "\n" .. key
  if not places[id] then
    local names = { KEYS[FIRST_NAME + values], KEYS[FIRST_NAME + revisions], scopes, KEYS[FIRST_NAME + stream] }
    local stored = redis.call("HGET", names[1], key)
    if stored then
      count_bytes(stored)
    end
    local time = stored and expiry.time_of(stored)
    local place = {
      keys = names, key = key, scope = sub(names[1], tag + 7), stored = stored, original = stored, -- scope: behind "state:"
      revision = redis.call("HGET", names[2], key) or "0-0", changes = 0, was_due = time, time = time,
    }
    if time and time <= now() then
      place.original, place.expired, place.time = false, true, nil
    end
    place.text = place.original
    places[id] = place
  end
  return places[id]
end

-- Do one change of a place in memory. Return the error of a change that cannot be made.
local function change(place, kind, ttl, parameters)
  local old = place.text
  local timing = { ending = old and #old - 3 }
  if ttl ~= "" or (old and (string.byte(old, -4) or 0) <= 32) then
    timing = expiry.plan(redis.pcall, place.keys, place.key, kind, ttl, old, now())
  end
  local function keep(action, new, _, ...)
    if action == "answer" then
      return new.err
    elseif action == "delete" then
      place.text, place.time = false, nil
    elseif action == "write" then
      count_bytes(new)
      place.text, place.time, place.fields = new, timing.time, { ... }
    end
    place.changes = place.changes + (action == "unchanged" and 0 or 1)
  end
  local ending, tail = timing.ending, timing.tail
  return keep(plan(redis, place.keys[2], place.key, request, kind, "", old, ending, tail, parameters, 1, budget))
end

local function check(place, expected)
  local actual = place.original and place.revision or "none"
  return actual ~= expected and "CONFLICT " .. actual or nil
end

-- Plan one item, whose parameters begin at `cursor` in ARGV. Return an error, if there is one.
local function plan_item(index, head, cursor)
  local kind, values, revisions, stream, count, ttl = string.match(head, OPTIONS)
  local parameters = {}
  for offset = 1, count do
    parameters[offset] = ARGV[cursor + offset - 1]
  end
  local following = cursor + count
  if kind == "message" then
    only_deletes = false
    count_bytes(parameters[3])
    words[index] = { stream = KEYS[FIRST_NAME + stream], message = parameters }
    sequence[#sequence + 1] = words[index]
    return nil, following
  end
  local place = open(values, revisions, stream, table.remove(parameters, 1))
  if kind == "check" then
    words[index] = "-"
    return check(place, parameters[1]), following
  elseif kind ~= "drop" then
    only_deletes = false
  end
  if not place.is_listed then
    place.is_listed, place.stream, sequence[#sequence + 1] = true, place.keys[4], place
  end
  local failure = change(place, kind, ttl, parameters)
  words[index] = place
  if not failure and (kind == "update" or kind == "strict update") then
    texts[#texts + 1] = #place.text .. ":" .. place.text
  end
  return failure, following
end

-- Plan all items, and read every key that will be written, because a read fails where another client put another type.
local function plan_all()
  local index, cursor = 1, FIRST_ITEM
  while cursor <= #ARGV do
    local failure
    failure, cursor = plan_item(index, ARGV[cursor], cursor + 1)
    if failure then
      fail("TRANSACTION " .. index - 1 .. " " .. failure)
    end
    index = index + 1
  end
  redis.call("SISMEMBER", scopes, "")
  redis.call("SISMEMBER", topics, "")
  redis.call("ZSCORE", due, "")
end

-- Return the fields that say what changed, or nil if the key ends as it began.
local function event_of(place)
  local old, new = place.original, place.text
  if place.changes == 0 or not (old or new) then
    return nil
  elseif not new then
    return "state:deleted", { "old", old }
  elseif place.changes == 1 then
    return old and "state:updated" or "state:created", place.fields
  elseif old then
    return "state:updated", { "new", new, "old", old }
  end
  return "state:created", { "new", new }
end

-- Return the entries to append: {the place or message, its fields}. An expired value has one of its own, which no request made.
local function list_entries()
  local entries, own = {}, {}
  for _, item in ipairs(sequence) do
    if item.message then
      item.is_first = redis.call("EXISTS", item.stream) == 0
      local topic, key, data, id = unpack(item.message)
      local fields = { "type", "topic", "topic", topic, "data", data, "request", id }
      if key ~= "" then
        fields[#fields + 1], fields[#fields + 2] = "key", key
      end
      own[#own + 1] = { item, fields, {} }
      entries[#entries + 1] = own[#own]
    else
      if item.expired then
        local fields = { "type", "state:deleted", "scope", item.scope, "key", item.key, "old", item.stored, "reason", "expired" }
        entries[#entries + 1] = { item, fields }
      end
      local kind, changed = event_of(item)
      if kind then
        local fields = { "type", kind, "scope", item.scope, "key", item.key, "request", request }
        own[#own + 1] = { item, fields, changed }
        entries[#entries + 1] = own[#own]
      end
    end
  end
  for index, entry in ipairs(own) do
    local fields = entry[2]
    if trace ~= "" then
      fields[#fields + 1], fields[#fields + 2] = "trace", trace
    end
    fields[#fields + 1], fields[#fields + 2] = "transaction", request .. ":" .. #own .. ":" .. index - 1
    for _, part in ipairs(entry[3]) do
      fields[#fields + 1] = part
    end
  end
  return entries
end

-- Append all entries, or none. Return the error of the stream that could not take its entry.
local function append(entries)
  for index, entry in ipairs(entries) do
    local item = entry[1]
    local id = redis.pcall("XADD", item.stream, "*", unpack(entry[2]))
    if type(id) == "table" then
      for undone = 1, index - 1 do
        redis.call("XDEL", entries[undone][1].stream, entries[undone][4])
      end
      return id
    end
    entry[4], item.appended = id, id
    item.event = entry[3] and (item.message and item.message[4] or id)
  end
end

-- Write what the entries say. Return whether a scope or a stream is new.
local function write_all()
  local is_new = 0
  for _, item in ipairs(sequence) do
    if item.message then
      if item.is_first then
        redis.call("SADD", topics, item.message[1])
        is_new = 1
      end
    elseif item.appended then
      local values, revisions = item.keys[1], item.keys[2]
      if item.text then
        redis.call("HSET", revisions, item.key, item.appended)
        redis.call("HSET", values, item.key, item.text)
        is_new = math.max(is_new, item.stored and 0 or redis.call("SADD", scopes, item.scope))
      else
        redis.call("HDEL", revisions, item.key)
        redis.call("HDEL", values, item.key)
        if redis.call("EXISTS", values) == 0 then
          redis.call("SREM", scopes, item.scope)
        end
      end
      if item.time ~= item.was_due then
        local member = expiry.due_member(values, item.keys[4], item.key)
        if item.time then
          redis.call("ZADD", due, string.format("%.0f", item.time), member)
        else
          redis.call("ZREM", due, member)
        end
      end
    end
  end
  return is_new
end

-- Trim one of the streams, so that the cost is that of one change. Return how many unhandled entries a cap dropped.
local function trim(entries, is_full)
  local entry = entries[1]
  local limits = entry and (entry[1].message and topic_limits or event_limits) or ""
  if limits == "" and not is_full then
    return 0
  end
  local retention = require("lib.retention")
  if is_full then
    for _, each in ipairs(entries) do
      pcall(retention.trim_to_needed, redis.call, each[1].stream, trimmed)
    end
    return 0
  end
  local done, lost = pcall(retention.trim, redis.call, entry[1].stream, trimmed, limits, entry[4])
  return done and lost or 0
end

local function reply_with(dropped, mark)
  for index, word in ipairs(words) do
    words[index] = type(word) == "string" and word or word.event or word.text and word.revision or "-"
  end
  return { table.concat(words, " "), table.concat(texts), dropped, mark }
end

local function run()
  local done, failure = pcall(plan_all)
  if not done then
    if type(failure) == "table" and failure.failure then
      return { err = failure.failure }
    end
    error(failure, 0)
  end
  local entries = list_entries()
  local refusal, is_full = append(entries), false
  if refusal and only_deletes and full.is_refusal(refusal) then
    is_full = true
    full.allow_writes(redis.call, entries[1][1].keys[2])
    refusal = append(entries)
  end
  if refusal then
    return refusal
  end
  local is_new = write_all()
  return reply_with(trim(entries, is_full), is_full and 2 or is_new)
end

local keys = { record = request_record, hash = trimmed, lifetime = lifetime }
keys.key = idempotency_record ~= request_record and idempotency_record or nil
local action, known = dedupe.decide(redis.call, keys, request, attempt_token)
if action == "answer" then
  return known
end
local reply = run()
if only_deletes then
  full.allow_writes(redis.call, trimmed) -- checks alone, or deletions that found nothing, have not written yet
end
dedupe.record_reply(redis.call, keys, attempt_token, reply)
return reply
