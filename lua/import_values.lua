-- Store texts of values as they are, or delete values, each with its event, in one partition. Values that are there may be kept.
--
-- KEYS     1 record of the request  2 hash that records what was trimmed from the streams  3 sorted set of what falls due
--          4 set of the partition's scopes
--          5... what the items name by their numbers: hashes of values, hashes of revisions, streams. All lie in one partition.
--          The name of KEYS 1 ends with the request id, and those of the values' hashes with the scope
-- ARGV     1 options, one a line: "keep" or "overwrite", what becomes of another value, or "copy" or "delete", see below; "try"
--            to write nothing, else ""; "fire" for events that fire triggers, else ""; the most bytes of old and new values
--            together; attempt token (lib/dedupe.lua); milliseconds for which the record of a first attempt stays; limits of
--            event streams, "" = do not trim
--            "copy" overwrites, and "delete" deletes the value; its text is not read. Both take what is stored as it is, also if
--            it has expired: an expiry is a change of the namespace that is copied
--          2... the items, one after the other, each of them
--            number of its hash of values, of its hash of revisions, of its stream, key, text: as it is stored, with the time at
--            which it expires and with its mark
-- RETURNS  {a letter for each item, the errors}, and what follows them in the reply of mutate.lua
--          c created   o overwritten   s same: the value was there, or there was none to delete   k kept: another value was
--          there   x expired: nothing stored   d deleted
--          e error: "<index of the item, from 0> <text>", one a line
--          Less letters than items: the others would have been too many bytes, and nothing was done for them
-- ERRORS   REUSED   UNKNOWN <reason>
-- COST     the bytes of the old and the new values: ARGV 1, or one old and one new value more
-- INVARIANT for each item either nothing changes, or all that a set in mutate.lua changes. An item that fails leaves the others
--          alone. A request is applied once. Over maxmemory all of it is refused.

local request_record, trimmed, due, scopes = unpack(KEYS, 1, 4)
local options = ARGV[1]
local FIRST_NAME, FIRST_ITEM = 5, 2
local ITEM_SIZE = 5 -- arguments

local write = require("lib.write")
local erase = require("lib.erase").erase
local expiry = require("lib.expiry")

local policy, trial, fires, most_bytes, attempt_token, lifetime, limits =
  string.match(options, "^([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)$")
most_bytes = tonumber(most_bytes)
local copies = policy == "copy" or policy == "delete"
local reason = copies and "copy" or "import"

local _, tag = string.find(request_record, "}:", 1, true)
local request = string.sub(request_record, tag + 9) -- behind "request:"
local now = expiry.now(redis.pcall, trimmed)
local created_scope, last_revision, last_stream = false, nil, nil

-- Write `text` in the place of `old` (false = no value) with its event.
local function store(keys, scope, key, old, text)
  local fields = { "new", text }
  if old then
    fields[3], fields[4] = "old", old
  end
  fields[#fields + 1], fields[#fields + 2] = "reason", reason
  if fires ~= "" then
    fields[#fields + 1], fields[#fields + 2] = "fire", "1"
  end
  return write(redis, keys, scope, key, request, "", nil, old, text, nil, unpack(fields))
end

-- Return what becomes of an item: its letter. `old` is the value that is there (false = none), `time` when the new one expires.
local function judge(text, time, old)
  if time and time <= now and not copies then
    return "x"
  elseif not old then
    return "c"
  elseif old == text then
    return "s"
  end
  return policy == "keep" and "k" or "o"
end

-- Delete the value `old` of an item. Return the letter, or the error reply of a key that holds another type.
local function delete_item(keys, key, old)
  if not old or trial ~= "" then
    return old and "d" or "s"
  end
  local reply = erase(redis, keys, string.sub(keys[1], tag + 7), key, request, "", old, nil, reason)
  if reply.err then
    return reply
  end
  if expiry.time_of(old) then
    redis.call("ZREM", due, expiry.due_member(keys[1], keys[4], key))
  end
  last_revision, last_stream = reply[1], keys[4]
  return "d"
end

-- Store one item. Return its letter, or the error reply of a key that holds another type.
local function store_item(keys, key, old, text)
  local time, old_time = expiry.time_of(text), old and expiry.time_of(old)
  local expired = not copies and old_time and old_time <= now and old
  old = not expired and old
  local letter = judge(text, time, old)
  if trial ~= "" or (letter ~= "c" and letter ~= "o") then
    return letter
  end
  local scope = string.sub(keys[1], tag + 7) -- behind "state:"
  if time then -- before the rest, because it fails where another client put another type
    redis.call("ZADD", due, string.format("%.0f", time), expiry.due_member(keys[1], keys[4], key))
  end
  local reply = expired and erase(redis, keys, scope, key, nil, "", expired)
  if not (reply and reply.err) then
    reply = store(keys, scope, key, old, text)
  end
  if reply.err then
    return reply
  end
  if old_time and not time then
    redis.call("ZREM", due, expiry.due_member(keys[1], keys[4], key))
  end
  created_scope = created_scope or reply[4] == 1
  last_revision, last_stream = reply[1], keys[4]
  return letter
end

-- Return the letter of an item, and its error, if there is one. `old` is what HGET returned.
local function try_item(keys, key, text, old)
  if type(old) == "table" and old.err then
    return "e", old
  end
  local work = policy == "delete" and delete_item or store_item
  local done, result = pcall(work, keys, key, old, text)
  if done and type(result) == "string" then
    return result
  end
  return "e", type(result) == "table" and result or { err = result }
end

local function run()
  local letters, errors, bytes = {}, {}, 0
  for cursor = FIRST_ITEM, #ARGV, ITEM_SIZE do
    local values, revisions, stream, key, text = unpack(ARGV, cursor, cursor + ITEM_SIZE - 1)
    local keys = { KEYS[FIRST_NAME + values], KEYS[FIRST_NAME + revisions], scopes, KEYS[FIRST_NAME + stream] }
    local old = redis.pcall("HGET", keys[1], key)
    bytes = bytes + #text + (type(old) == "string" and #old or 0)
    if bytes > most_bytes and cursor > FIRST_ITEM then
      break
    end
    local letter, failure = try_item(keys, key, text, old)
    if failure and require("lib.full").is_refusal(failure) then -- of the first write, so nothing was written
      return failure
    elseif failure then
      errors[#errors + 1] = #letters .. " " .. string.gsub(failure.err or "", "\n", " ")
    end
    letters[#letters + 1] = letter
  end
  local dropped = 0
  if last_revision and limits ~= "" then -- a failure to trim must not fail the call
    local done, lost = pcall(require("lib.retention").trim, redis.call, last_stream, trimmed, limits, last_revision)
    dropped = done and lost or 0
  end
  return { table.concat(letters), table.concat(errors, "\n"), dropped, created_scope and 1 or 0 }
end

if trial ~= "" then
  return run()
end
local dedupe = require("lib.dedupe")
local keys = { record = request_record, hash = trimmed, lifetime = lifetime }
local action, known = dedupe.decide(redis.call, keys, request, attempt_token)
if action == "answer" then
  return known
end
local reply = run()
dedupe.record_reply(redis.call, keys, attempt_token, reply)
return reply
