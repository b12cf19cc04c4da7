-- Change one value and append the change event, in one atomic step.
--
-- KEYS     1 hash of the scope's values     2 hash of the scope's revisions
--          3 set of the partition's scopes  4 event stream of the key's lane
--          5 record of the request          6 hash that records what was trimmed from the streams; absent without options
--          7 record of the idempotency key; absent without one
-- ARGV     1 scope  2 key  3 request id  4 trace id ("" = none)
--          5 "" or options, "<expected>\n<limits>\n<attempt token>":
--            expected       "" = any revision, "none" = the key must hold no value, else the revision that it must have
--            limits         "" = do not trim, else "<history>:<cap>:<age>", see lib/retention.lua
--            attempt token  "" for a first attempt without idempotency key, else see lib/dedupe.lua
--          6 kind of change, and 7... its parameters:
--            "set"     7 canonical JSON with its mark
--            "delete"  7 "quiet" = do not return the old text; else absent
--            "update"  7 "strict" or "lenient"  8 largest size of the result (bytes)  9 number of operations, then for each:
--                      name, path length, path segments..., and
--                        add set replace test increment append: value
--                        move copy:                             length of `from`, segments of `from`...
--                        merge:                                 whole value, member count, (name, value)...
--                        remove discard:                        nothing
-- RETURNS  set: {revision}
--          delete: {revision, old text}; {revision} when quiet; {} when the key held no value
--          update: {revision, new text}; {old revision, old text} when no operation changed anything ("0-0" when
--          another client wrote the value)
--          a third element is the number of unhandled events that the hard cap dropped, if it dropped any; the second is then ""
--          if there is no text
--          the status SEARCHING: call again, because the search for an earlier attempt is not finished
-- ERRORS   CONFLICT <actual revision or none>   REUSED   UNKNOWN <reason>
--          TOOLARGE <bytes>   CORRUPT <operation index> <reason>   KEYMISSING
--          PATHMISSING | BADINDEX | WRONGKIND | TESTFAILED | OVERFLOW | TOODEEP | TOOMUCH <operation index> <detail>
-- COST     set, delete: the bytes of the old and the new value; update: see lib/patch.lua; when it trims, see lib/retention.lua;
--          when it repeats a call, see lib/dedupe.lua
-- INVARIANT either nothing changes, or all of this does: the value, its revision (the id of the change event), and the set of
--          scopes, which holds the scope exactly while the scope holds a value. Everything is checked before the first write. A
--          request is applied once.

local values, revisions, scopes, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local request_record, trimmed, idempotency_record = KEYS[5], KEYS[6], KEYS[7]
local scope, key, request, trace, options, kind = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local parameter, max_bytes = ARGV[7], ARGV[8]
local FIRST_OPERATION = 9 -- behind the parameters of an update: the number of operations, then the operations
local MARK = "\t\r\t" -- ends every text that this package writes; see codec.py
local call, pcall_redis = redis.call, redis.pcall

-- Append the event and change the key from `old` (false = no value) to `new` (false = deleted). The event carries only the part
-- `replaced` of the old text; `kept` says how many bytes of the old text stay at both ends of the new one. Return the reply: the
-- revision and `extra`.
local function write(old, new, replaced, kept, extra)
  local event = not old and "state:created" or new and "state:updated" or "state:deleted"
  local revision = call(
    "XADD", events, "*",
    "type", event, "scope", scope, "key", key, "new", new or "", "old", replaced, "kept", kept, "request", request, "trace", trace
  )
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
  return { revision, extra }
end

-- A script creates its functions again in every call, so the most frequent change returns before the functions that it does not
-- need. It is a first attempt: it only checks that no later attempt left a record.
if kind == "set" and options == "" and call("EXISTS", request_record) == 0 then
  local old = call("HGET", values, key)
  return write(old, parameter, old or "", "0:0")
end

-- PARTS

local expected, limits, attempt_token = string.match(options, "^([^\n]*)\n([^\n]*)\n([^\n]*)$")
if not expected then
  expected, limits, attempt_token = "", "", ""
end

local function change()
  local old = call("HGET", values, key)
  if expected ~= "" then
    local actual = old and (call("HGET", revisions, key) or "0-0") or "none"
    if actual ~= expected then
      return redis.error_reply("CONFLICT " .. actual)
    end
  end
  if kind == "set" then
    return write(old, parameter, old or "", "0:0")
  elseif kind == "delete" then
    return old and write(old, false, old, "0:0", parameter ~= "quiet" and old or nil) or {}
  elseif not old and parameter == "strict" then
    return redis.error_reply("KEYMISSING")
  end
  local patch = require("lib.patch")
  local document = patch.new_document(old or "{}" .. MARK, request)
  local done, failure = pcall(patch.apply, document, ARGV, FIRST_OPERATION, parameter == "strict")
  if not done then
    if type(failure) ~= "table" then
      error(failure, 0)
    end
    return redis.error_reply(failure.code .. " " .. document.operation .. " " .. failure.detail)
  elseif not old then
    document.prefix, document.suffix = 0, 0
  elseif not document.changed then
    return { call("HGET", revisions, key) or "0-0", old }
  end
  local text, prefix, suffix = document.text, document.prefix, document.suffix
  if #text > max_bytes + #MARK then
    return redis.error_reply("TOOLARGE " .. #text - #MARK)
  end
  -- Both ends of the old text stay in the new one. The event carries only the bytes between them.
  local replaced = old and string.sub(old, prefix + 1, #old - suffix) or ""
  return write(old, text, replaced, prefix .. ":" .. suffix, text)
end

local function change_and_trim()
  local reply = change()
  if limits ~= "" and reply[1] and not reply.err then
    local done, lost = pcall(require("lib.retention").trim, call, events, trimmed, limits)
    if done and lost then -- a failure to trim must not fail the change
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
}
local known = dedupe.find_reply(call, keys, request, attempt_token)
if known then
  return known
end
local reply = change_and_trim()
dedupe.record_reply(call, keys, attempt_token, reply)
return reply
