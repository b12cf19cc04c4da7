-- Change one value and append the change event, in one atomic step.
--
-- KEYS     1 hash of the scope's values    2 hash of the scope's revisions
--          3 set of the partition's scopes 4 event stream of the key's lane
--          5 record of the request         6 with options: hash of what was trimmed from the partition's streams
--          7 record of the idempotency key, if any
-- ARGV     1 scope  2 key  3 request id  4 trace id ("" = none)
--          5 "" or options, "<expected>\n<limits>\n<again>":
--            expected  "" = any revision, "none" = the key must hold no value, else the revision it must have
--            limits    "" or, to trim the stream, "<history>:<cap>:<age>": see lib/retention.lua
--            again     "" for a first attempt without idempotency key, else see lib/once.lua
--          6 kind of change, and what it takes:
--            "set"     7 sealed text
--            "delete"  7 "quiet": the old text is not wanted
--            "update"  7 "strict" or "lenient"  8 most bytes a value may have  9 number of operations, then for each:
--                      name  path length  path segments...  and
--                        add set replace test increment append: value
--                        move copy:                             from length  from segments...
--                        merge:                                 whole value  member count  (name value)...
--                        remove discard:                        nothing
-- RETURNS  set: {revision}   delete: {revision, old text} or {} when there was nothing
--          A third element is the number of unhandled events that the hard cap dropped; the second is "" then if there was none.
--          The status SEARCHING: call again; whether the request was applied before is not clear yet.
--          update: {revision, new text}; the old revision when no operation touched anything ("0-0" if a foreign write set none)
-- ERRORS   CONFLICT <actual revision or none>
--          TOOLARGE <bytes>   CORRUPT <index> <why>   KEYMISSING   REUSED   UNKNOWN <why>
--          PATHMISSING | BADINDEX | WRONGKIND | TESTFAILED | OVERFLOW | TOODEEP | TOOMUCH <operation index> <detail>
-- COST     set, delete: the bytes of the old and new value. update: see lib/patch.lua.
-- INVARIANT a value changes, its revision is the id of the event that tells so, and the scope is in the set exactly while
--          it holds a value; or nothing changes at all. Everything is checked before the first write. A request is applied once.

local SEAL = "\t\r\t" -- behind every text that this package writes; see codec.py
local values, revisions, scopes, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local scope, key, request, trace, options, kind = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local call, pcall_redis = redis.call, redis.pcall

-- Append the event and change the key from `old` (false = it held none) to `new` (false = it is deleted). Of the old text
-- the event carries only `cut`; `kept` says how much of it stays at both ends of the new. Returns the revision, and `told`.
local function write(old, new, cut, kept, told)
  local event = not old and "state:created" or new and "state:updated" or "state:deleted"
  local revision = call(
    "XADD", events, "*",
    "type", event, "scope", scope, "key", key, "new", new or "", "old", cut, "kept", kept, "request", request, "trace", trace
  )
  -- From here on the event has to go again if a write fails, which is when somebody put another type under one of our keys. The
  -- value comes last: HGET has shown that its write cannot fail.
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
  return { revision, told }
end

-- A script makes its functions anew at every call: the most common change comes before those that it does not need. It is a first
-- attempt, so there is nothing to remember and nothing to look up, but that no later attempt has been here.
if kind == "set" and options == "" and call("EXISTS", KEYS[5]) == 0 then
  local old = call("HGET", values, key)
  return write(old, ARGV[7], old or "", "0:0")
end

-- PARTS

local expected, limits, again = string.match(options, "^([^\n]*)\n([^\n]*)\n([^\n]*)$")
if not expected then
  expected, limits, again = "", "", ""
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
    return write(old, ARGV[7], old or "", "0:0")
  elseif kind == "delete" then
    return old and write(old, false, old, "0:0", ARGV[7] ~= "quiet" and old or nil) or {}
  elseif not old and ARGV[7] == "strict" then
    return redis.error_reply("KEYMISSING")
  end
  local patch = require("lib.patch")
  local document = patch.new_document(old or "{}" .. SEAL)
  local done, failure = pcall(patch.apply, document, ARGV, 9, ARGV[7] == "strict")
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
  if #text > ARGV[8] + #SEAL then
    return redis.error_reply("TOOLARGE " .. #text - #SEAL)
  end
  -- What stays of the old text at both ends of the new: the event carries only the bytes between.
  local cut = old and string.sub(old, prefix + 1, #old - suffix) or ""
  return write(old, text, cut, prefix .. ":" .. suffix, text)
end

local function change_and_trim()
  local reply = change()
  if limits ~= "" and reply[1] and not reply.err then
    local done, lost = pcall(require("lib.retention").trim, call, events, KEYS[6], limits)
    if done and lost then -- else the change stands, whatever went wrong with this
      reply[2], reply[3] = reply[2] or "", lost
    end
  end
  return reply
end

if again == "" and call("EXISTS", KEYS[5]) == 0 then
  return change_and_trim()
end
local once = require("lib.once")
local keys = { record = KEYS[5], key = KEYS[7], stream = events, trimmed = KEYS[6], newest = call("HGET", revisions, key) }
local known = once.before(call, keys, request, again)
if known then
  return known
end
local reply = change_and_trim()
once.after(call, keys, again, reply)
return reply
