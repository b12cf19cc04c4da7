-- Change one value and append the change event, in one atomic step.
--
-- KEYS     1 hash of the scope's values     2 hash of the scope's revisions
--          3 set of the partition's scopes  4 event stream of the key's lane
--          5 record of the request          6 hash that records what was trimmed from the streams; a set or update without
--          options has none
--          7 record of the idempotency key; absent without one
--          The names of KEYS 1 and 5 end with the scope and with the request id, so that neither is sent twice
-- ARGV     1 key
--          2 kind of change; or "<kind>\n<trace id>"; or "<kind>\n<trace id>\n<expected>\n<limits>\n<attempt token>":
--            expected       "" = any revision, "none" = the key must hold no value, else the revision that it must have
--            limits         "" = do not trim, "needed" = keep only what groups need, else see lib/retention.lua
--            attempt token  "" for a first attempt without idempotency key, else see lib/dedupe.lua
--          3... parameters of the kind:
--            "set"     3 canonical JSON with its mark
--            "delete"  none; "drop" is a deletion that does not return the old text
--            "update"  3 largest size of the result (bytes)  4 number of operations, then for each: name, path length,
--                      path segments..., and
--                        add set replace test increment append: value
--                        move copy:                             length of `from`, segments of `from`...
--                        merge:                                 whole value, member count, (name, value)...
--                        remove discard:                        nothing
--            "strict update"  the same
-- RETURNS  set: {revision}
--          delete: {revision, old text}; drop: {revision}; {} when the key held no value
--          update: {revision, new text}; {old revision, old text} when no operation changed anything ("0-0" when
--          another client wrote the value)
--          with a third element, the number of unhandled events that the hard cap dropped, if it dropped any; and with a fourth,
--          1, if the change made the scope (the client then looks whether Redis has lost its data), or 2, if a deletion found the
--          server full. The elements before them are "" if there is no text, and 0
--          the status SEARCHING: call again, because the search for an earlier attempt is not finished
-- ERRORS   CONFLICT <actual revision or none>   REUSED   UNKNOWN <reason>
--          TOOLARGE <bytes>   CORRUPT <operation index> <reason>   KEYMISSING
--          PATHMISSING | BADINDEX | WRONGKIND | TESTFAILED | OVERFLOW | TOODEEP | TOOMUCH <operation index> <detail>
-- COST     set, delete: the bytes of the old and the new value; update: see lib/patch.lua; when it trims, see lib/retention.lua;
--          when it repeats a call, see lib/dedupe.lua
-- INVARIANT either nothing changes, or all of this does: the value, its revision (the id of the change event), and the set of
--          scopes, which holds the scope exactly while the scope holds a value. Everything is checked before the first write. A
--          request is applied once. Over maxmemory "set" and "update" are refused; "delete" works, and trims its stream at once
--          to what consumer groups need, so that it frees memory.

local values, revisions, scopes, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local request_record, trimmed, idempotency_record = KEYS[5], KEYS[6], KEYS[7]
local key, kind, parameter = ARGV[1], ARGV[2], ARGV[3]
local FIRST_OPERATION = 4 -- behind the other parameters of an update: the number of operations, then the operations
local MARK = "\t\r\t" -- ends every text that this package writes; see codec.py
local call, pcall_redis = redis.call, redis.pcall
local find, sub = string.find, string.sub

local _, tag = find(values, "}:", 1, true) -- all keys begin with the same hash tag
local scope, request = sub(values, tag + 7), sub(request_record, tag + 9) -- behind "state:" and "request:"
local trace, expected, limits, attempt_token = "", "", "", ""
local line = find(kind, "\n", 1, true)
if line then
  local options = find(kind, "\n", line + 1, true)
  if options then
    expected, limits, attempt_token = string.match(kind, "^([^\n]*)\n([^\n]*)\n([^\n]*)$", options + 1)
  end
  trace, kind = sub(kind, line + 1, options and options - 1), sub(kind, 1, line - 1)
end

-- Append the event and change the key from `old` (false = no value) to `new` (false = deleted). What follows `extra` are fields
-- of the event that say what changed; docs/format.md lists them. A field that would be empty is left out. Return the reply: the
-- revision and `extra`. If Redis refuses the event of a deletion, nothing was written yet: return the error.
local function write(old, new, extra, ...)
  local event = not old and "state:created" or new and "state:updated" or "state:deleted"
  local append = new and call or pcall_redis
  local revision
  if trace == "" then
    revision = append("XADD", events, "*", "type", event, "scope", scope, "key", key, "request", request, ...)
  else
    revision = append("XADD", events, "*", "type", event, "scope", scope, "key", key, "request", request, "trace", trace, ...)
  end
  if type(revision) == "table" then
    return revision
  end
  -- If a write fails now, the event must be deleted again. A write fails when another client put another type under one of our
  -- keys. The value is written last, because HGET has shown that this write cannot fail.
  local written
  if new then
    written = pcall_redis("HSET", revisions, key, revision)
  else
    written = pcall_redis("HDEL", revisions, key)
  end
  if not old and type(written) ~= "table" then
    written = pcall_redis("SADD", scopes, scope)
    if type(written) == "table" then
      call("HDEL", revisions, key)
    end
  end
  if type(written) == "table" then
    call("XDEL", events, revision)
    return written
  end
  if new then
    call("HSET", values, key, new)
  else
    call("HDEL", values, key)
    if call("EXISTS", values) == 0 then
      pcall_redis("SREM", scopes, scope)
    end
  end
  if not old and written == 1 then -- the reply of SADD
    return { revision, extra or "", 0, 1 }
  end
  return { revision, extra }
end

-- A script creates its functions again in every call, so the most frequent change returns before the functions that it does not
-- need. It is a first attempt: it only checks that no later attempt left a record.
if kind == "set" and attempt_token == "" and expected == "" and limits == "" and call("EXISTS", request_record) == 0 then
  local old = call("HGET", values, key)
  if old then
    return write(old, parameter, nil, "new", parameter, "old", old)
  end
  return write(old, parameter, nil, "new", parameter)
end

-- PARTS

local is_full = false -- whether Redis refused the event of a deletion, because it is over maxmemory

local function change()
  local old = call("HGET", values, key)
  if expected ~= "" then
    local actual = old and (call("HGET", revisions, key) or "0-0") or "none"
    if actual ~= expected then
      return redis.error_reply("CONFLICT " .. actual)
    end
  end
  if kind == "set" and old then
    return write(old, parameter, nil, "new", parameter, "old", old)
  elseif kind == "set" then
    return write(old, parameter, nil, "new", parameter)
  elseif kind == "delete" or kind == "drop" then
    if not old then
      return {}
    end
    local extra = kind == "delete" and old or nil
    local reply = write(old, false, extra, "old", old)
    if reply.err then
      local full = require("lib.full")
      if full.is_refusal(reply) then
        is_full = true
        full.allow_writes(call, revisions)
        reply = write(old, false, extra, "old", old)
      end
    end
    return reply
  elseif not old and kind == "strict update" then
    return redis.error_reply("KEYMISSING")
  end
  local patch = require("lib.patch")
  local document = patch.new_document(old or "{}" .. MARK, request)
  local done, failure = pcall(patch.apply, document, ARGV, FIRST_OPERATION, kind == "strict update")
  if not done then
    if type(failure) ~= "table" then
      error(failure, 0)
    end
    return redis.error_reply(failure.code .. " " .. document.operation .. " " .. failure.detail)
  elseif old and not document.changed then
    return { call("HGET", revisions, key) or "0-0", old }
  end
  local text, prefix, suffix = document.text, document.prefix, document.suffix
  if #text > parameter + #MARK then
    return redis.error_reply("TOOLARGE " .. #text - #MARK)
  end
  if not old then
    return write(old, text, text, "new", text)
  end
  -- Both ends of the old text stay in the new one. The event carries only the bytes between them.
  local replaced = sub(old, prefix + 1, #old - suffix)
  if prefix + suffix == 0 then
    return write(old, text, text, "new", text, "old", replaced)
  elseif replaced == "" then
    return write(old, text, text, "new", text, "kept", prefix .. ":" .. suffix)
  end
  return write(old, text, text, "new", text, "kept", prefix .. ":" .. suffix, "old", replaced)
end

local function change_and_trim()
  local reply = change()
  if reply.err or not reply[1] then
    return reply
  end
  if is_full then
    reply[2], reply[3], reply[4] = reply[2] or "", 0, 2
  end
  if is_full or limits == "needed" then -- a failure to trim must not fail the change
    pcall(require("lib.retention").trim_to_needed, call, events, trimmed)
  elseif limits ~= "" then
    local done, lost = pcall(require("lib.retention").trim, call, events, trimmed, limits, reply[1])
    if done and lost then
      reply[2], reply[3] = reply[2] or "", lost
    end
  end
  return reply
end

if attempt_token == "" and call("EXISTS", request_record) == 0 then
  return change_and_trim()
end
local dedupe = require("lib.dedupe")
local keys = {
  record = request_record, key = idempotency_record, stream = events, trimmed = trimmed, newest = call("HGET", revisions, key),
  hash = revisions,
}
local known = dedupe.find_reply(call, keys, request, attempt_token)
if known then
  return known
end
local reply = change_and_trim()
if kind == "delete" or kind == "drop" then
  require("lib.full").allow_writes(call, revisions) -- a deletion that found nothing has not written yet
end
dedupe.record_reply(call, keys, attempt_token, reply)
return reply
