-- Check and change several values, and append messages, in one atomic step.
--
-- KEYS     1 record of the request  2 hash that records what was trimmed from the streams  3 sorted set of what falls due
--          4 set of the partition's scopes  5 set of the partition's topics
--          6 record of the idempotency key, or hash of effects (lib/dedupe.lua), or KEYS 1 again
--          7... what the items name by their numbers: hashes of values, hashes of revisions, streams. All lie in one partition.
--          The name of KEYS 1 ends with the request id, and those of the values' hashes with the scope
-- ARGV     1 options, one a line: trace id; the most bytes of old and new values together; attempt token (lib/dedupe.lua);
--            milliseconds for which the record of a first attempt stays; limits of event streams and of topics, "" = do not trim
--          2... the items, one after the other, each of them
--            kind, number of its hash of values, of its hash of revisions, of its stream, of its parameters, ttl, parameters
--            "check"     key, expected revision or "none"; without ttl
--            "message"   topic, key ("" = none), data, message id; without ttl and hashes
--            "set", "drop", "update", "strict update"   key, then the parameters of the kind, and the ttl, as in mutate.lua
-- RETURNS  {a word for each item, the texts of the updates}, and what follows them in the reply of mutate.lua
--          A word is the revision of the change; where there was nothing to change, that of the value ("0-0" if another client
--          wrote it), or "-" if there is none; "-" for a check; the id of a message. The texts are "<bytes>:<text>", one after
--          the other; those of an effect are those of the sets, too
--          the status SEARCHING does not occur: a request always leaves a record
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

local trace, most_bytes, attempt_token, lifetime, event_limits, topic_limits =
  string.match(options, "^([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)$")
most_bytes = tonumber(most_bytes)

local sub = string.sub
local _, tag = string.find(request_record, "}:", 1, true)
local request = sub(request_record, tag + 9) -- behind "request:"

local bytes = 0 -- of the old and new values so far
local budget = { cost = 0 } -- of the updates
local is_effect = string.find(attempt_token, "@", 1, true) -- a repetition may have other values: so it gets those of the sets
local only_deletes = true -- whether the call may run over maxmemory
local groups, group_list = {}, {} -- the scopes
local sequence = {} -- the keys and messages, in the order of their events
local words, texts = {}, {}
local now_is

-- End the planning with an error of the caller.
local function fail(text)
  error({ failure = text }, 0)
end

local function count_bytes(text)
  bytes = bytes + #text
  if bytes > most_bytes then
    fail("OVERSIZE " .. string.format("%.0f", bytes))
  end
end

-- The time by which values expire: one for the whole call.
local function now()
  now_is = now_is or require("lib.expiry").now(redis.pcall, trimmed)
  return now_is
end

-- Return what is known of a scope: its hashes, and what will be written to them.
local function open_group(values, revisions)
  local group = { values = KEYS[FIRST_NAME + values], revisions = KEYS[FIRST_NAME + revisions], places = {} }
  group.scope = sub(group.values, tag + 7) -- behind "state:"
  group.new_texts, group.new_revisions, group.gone = {}, {}, {}
  redis.call("HLEN", group.revisions)
  groups[values], group_list[#group_list + 1] = group, group
  return group
end

-- Return what is known of a key: `original` before the transaction and `text` after the items so far (false = no value), and the
-- time at which `text` expires.
local function open(group, stream, key)
  local stored = redis.call("HGET", group.values, key)
  local place = { group = group, key = key, stream = KEYS[FIRST_NAME + stream], stored = stored, changes = 0 }
  group.places[key] = place
  if stored then
    count_bytes(stored)
    local time = (string.byte(stored, -4) or 0) <= 32 and require("lib.expiry").time_of(stored) or nil
    place.was_due, place.time = time, time
    if time and time <= now() then
      place.expired, place.time, stored = true, nil, false
    end
  end
  place.original, place.text = stored, stored
  return place
end

-- Take what lib/plan.lua returned. Return the error of a change that cannot be made.
local function take(place, time, action, new, _, ...)
  if action == "write" then
    count_bytes(new)
    place.text, place.time, place.fields, place.changes = new, time, { ... }, place.changes + 1
  elseif action == "delete" then
    place.text, place.time, place.changes = false, nil, place.changes + 1
  elseif action == "answer" then
    return new.err
  end
end

-- Do one change of a place in memory. Return the error of a change that cannot be made.
local function change(place, kind, ttl, parameters)
  local old, group = place.text, place.group
  if kind == "set" and ttl == "" and not place.time then -- the most frequent change needs no parts
    local text = parameters[1]
    return take(place, nil, "write", text, nil, "new", text, old and "old" or nil, old or nil)
  end
  local ending, tail, time = old and #old - 3, nil, nil
  if ttl ~= "" or (old and (string.byte(old, -4) or 0) <= 32) then
    local keys = { group.values, group.revisions, scopes, place.stream }
    local timing = require("lib.expiry").plan(redis.pcall, keys, place.key, kind, ttl, old, now())
    ending, tail, time = timing.ending, timing.tail, timing.time
  end
  local plan = require("lib.plan")
  return take(place, time, plan(redis, group.revisions, place.key, request, kind, "", old, ending, tail, parameters, 1, budget))
end

-- Return the revision of a key before the transaction, "0-0" if another client wrote its value.
local function revision_of(place)
  return redis.call("HGET", place.group.revisions, place.key) or "0-0"
end

local function check(place, expected)
  local actual = place.original and revision_of(place) or "none"
  return actual ~= expected and "CONFLICT " .. actual or nil
end

-- Plan the item at `cursor` in ARGV, whose parameters end at `last`. Return an error, if there is one.
local function plan_item(index, cursor, last)
  local kind, values, revisions, stream, _, ttl, key = unpack(ARGV, cursor, cursor + 6)
  local first = cursor + 7
  if kind == "message" then
    local _, data, id = unpack(ARGV, first, last)
    only_deletes = false
    count_bytes(data)
    words[index] = { stream = KEYS[FIRST_NAME + stream], topic = key, key = ARGV[first], data = data, id = id }
    sequence[#sequence + 1] = words[index]
    return nil
  end
  local group = groups[values] or open_group(values, revisions)
  local place = group.places[key] or open(group, stream, key)
  words[index] = place
  if kind == "check" then
    words[index] = "-"
    return check(place, ARGV[first])
  elseif kind ~= "drop" then
    only_deletes = false
  end
  if not place.is_listed then
    place.is_listed, sequence[#sequence + 1] = true, place
  end
  local parameters = {}
  for offset = 0, last - first do
    parameters[offset + 1] = ARGV[first + offset]
  end
  local failure = change(place, kind, ttl, parameters)
  if not failure and (kind == "update" or kind == "strict update" or (is_effect and kind == "set")) then
    texts[#texts + 1] = #place.text .. ":" .. place.text
  end
  return failure
end

-- Set the event of a place: its type and the fields that say what changed; none if the key ends as it began.
local function plan_event(place)
  local old, new = place.original, place.text
  if place.changes == 0 or not (old or new) then
    return
  elseif not new then
    place.event, place.fields = "state:deleted", { "old", old }
    return
  elseif place.changes > 1 then
    place.fields = old and { "new", new, "old", old } or { "new", new }
  end
  place.event = old and "state:updated" or "state:created"
end

-- Plan all items. Everything that will be written is read, because a read fails where another client put another type. Return
-- the number of events and messages, and that of the events.
local function plan_all()
  local index, cursor, count, changes = 1, FIRST_ITEM, 0, 0
  while cursor <= #ARGV do
    local last = cursor + 5 + ARGV[cursor + 4]
    local failure = plan_item(index, cursor, last)
    if failure then
      fail("TRANSACTION " .. index - 1 .. " " .. failure)
    end
    index, cursor = index + 1, last + 1
  end
  for _, item in ipairs(sequence) do
    if item.topic then
      count, item.is_first = count + 1, redis.call("EXISTS", item.stream) == 0
      redis.call("SISMEMBER", topics, item.topic)
    else
      plan_event(item)
      changes = changes + (item.event and 1 or 0)
      if item.event and not item.stored then
        redis.call("SISMEMBER", scopes, item.group.scope)
      end
      if item.time ~= item.was_due then
        redis.call("ZSCORE", due, "")
      end
    end
  end
  return count + changes, changes
end

-- Append the event of a place and return its id, or the error of a stream that cannot take it.
local function append_event(place, mark)
  local add, scope, key = redis.pcall, place.group.scope, place.key
  if not mark then
    local old = place.stored
    return add("XADD", place.stream, "*", "type", "state:deleted", "scope", scope, "key", key, "old", old, "reason", "expired")
  elseif trace == "" then
    return add(
      "XADD", place.stream, "*", "type", place.event, "scope", scope, "key", key, "request", request, "transaction", mark,
      unpack(place.fields)
    )
  end
  return add(
    "XADD", place.stream, "*", "type", place.event, "scope", scope, "key", key, "request", request, "trace", trace,
    "transaction", mark, unpack(place.fields)
  )
end

local function append_message(item, mark)
  local fields = { "type", "topic", "topic", item.topic, "data", item.data, "request", item.id, "transaction", mark }
  if item.key ~= "" then
    fields[#fields + 1], fields[#fields + 2] = "key", item.key
  end
  if trace ~= "" then
    fields[#fields + 1], fields[#fields + 2] = "trace", trace
  end
  return redis.pcall("XADD", item.stream, "*", unpack(fields))
end

-- Append `count` events and messages, `changes` of them events, and expiries before them, or none. Return them, or an error.
local function append_all(count, changes)
  local appended, index = {}, 0
  local function append(add, item, mark)
    local id = add(item, mark)
    if type(id) ~= "table" then
      appended[#appended + 1], item.appended = { item.stream, id, item.topic }, id
      return nil
    end
    for _, entry in ipairs(appended) do
      redis.call("XDEL", entry[1], entry[2])
    end
    return id
  end
  for _, item in ipairs(sequence) do
    local refusal = item.expired and append(append_event, item)
    if not refusal and (item.topic or item.event) then
      local mark = request .. ":" .. count .. ":" .. index .. ":" .. changes
      refusal = append(item.topic and append_message or append_event, item, mark)
      index, item.revision = index + 1, item.appended
    end
    if refusal then
      return nil, refusal
    end
  end
  return appended
end

local function add_two(list, first, second)
  local count = #list
  list[count + 1], list[count + 2] = first, second
end

-- Write the time at which the value of a place expires.
local function write_time(place)
  local member = require("lib.expiry").due_member(place.group.values, place.stream, place.key)
  if place.time then
    redis.call("ZADD", due, string.format("%.0f", place.time), member)
  else
    redis.call("ZREM", due, member)
  end
end

-- Write the values and revisions of a scope. Return whether the scope is new.
local function write_group(group)
  local is_new = false
  if group.new_texts[1] then
    redis.call("HSET", group.revisions, unpack(group.new_revisions))
    redis.call("HSET", group.values, unpack(group.new_texts))
    is_new = group.is_created and redis.call("SADD", scopes, group.scope) == 1
  end
  if group.gone[1] then
    redis.call("HDEL", group.revisions, unpack(group.gone))
    redis.call("HDEL", group.values, unpack(group.gone))
    if redis.call("EXISTS", group.values) == 0 then
      redis.call("SREM", scopes, group.scope)
    end
  end
  return is_new
end

-- Write what the events say. Return whether a scope or a stream is new.
local function write_all()
  local is_new = false
  for _, item in ipairs(sequence) do
    local group = item.group
    if item.topic and item.is_first then
      redis.call("SADD", topics, item.topic)
      is_new = true
    elseif group and item.appended then
      if item.text then
        add_two(group.new_texts, item.key, item.text)
        add_two(group.new_revisions, item.key, item.appended)
        group.is_created = group.is_created or not item.stored
      else
        group.gone[#group.gone + 1] = item.key
      end
      if item.time ~= item.was_due then
        write_time(item)
      end
    end
  end
  for _, group in ipairs(group_list) do
    is_new = write_group(group) or is_new
  end
  return is_new
end

-- Trim one stream, as one change would; all of them, if the server is full. Return how many unhandled entries a cap dropped.
local function trim(appended, is_full)
  local first = appended[1]
  local limits = first and (first[3] and topic_limits or event_limits) or ""
  if is_full then
    for _, entry in ipairs(appended) do
      pcall(require("lib.retention").trim_to_needed, redis.call, entry[1], trimmed)
    end
  elseif limits ~= "" then
    local done, lost = pcall(require("lib.retention").trim, redis.call, first[1], trimmed, limits, first[2])
    return done and lost or 0
  end
  return 0
end

local function words_of_items()
  for index, item in ipairs(words) do
    if item ~= "-" then
      words[index] = item.topic and item.id or item.revision or (item.text and revision_of(item)) or "-"
    end
  end
  return table.concat(words, " ")
end

local function run()
  local done, count, changes = pcall(plan_all)
  if not done then
    if type(count) == "table" and count.failure then
      return { err = count.failure }
    end
    error(count, 0)
  end
  local appended, refusal = append_all(count, changes)
  local is_full = false
  if refusal and only_deletes and require("lib.full").is_refusal(refusal) then
    is_full = true
    require("lib.full").allow_writes(redis.call, trimmed)
    appended, refusal = append_all(count, changes)
  end
  if refusal then
    return refusal
  end
  local is_new = write_all()
  local dropped = trim(appended, is_full)
  return { words_of_items(), table.concat(texts), dropped, is_full and 2 or is_new and 1 or 0 }
end

if attempt_token == "" and redis.call("EXISTS", request_record) == 0 then
  local reply = run()
  if not reply.err then
    if only_deletes then
      require("lib.full").allow_writes(redis.call, trimmed) -- checks alone, or deletions that found nothing, have not written yet
    end
    redis.call("SET", request_record, "1\n" .. reply[1] .. "\n" .. reply[2], "PX", lifetime) -- as lib/dedupe.lua does
  end
  return reply
end
local dedupe = require("lib.dedupe")
local keys = { record = request_record, hash = trimmed, lifetime = lifetime }
keys.key = idempotency_record ~= request_record and idempotency_record or nil
local action, known = dedupe.decide(redis.call, keys, request, attempt_token)
if action == "answer" then
  return known
end
local reply = run()
if only_deletes then
  require("lib.full").allow_writes(redis.call, trimmed) -- checks alone, or deletions that found nothing, have not written yet
end
dedupe.record_reply(redis.call, keys, attempt_token, reply)
return reply
