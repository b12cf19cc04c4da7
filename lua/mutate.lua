-- Change one value and append the change event, in one atomic step.
--
-- KEYS     1 hash of the scope's values    2 hash of the scope's revisions
--          3 set of the partition's scopes 4 event stream of the key's lane
--          5 hash of what was trimmed from the partition's streams
--          6 record of the request         7 record of the idempotency key, if any
-- ARGV     1 scope  2 key  3 request id  4 trace id ("" = none)
--          5 expected revision: "" = any, "none" = the key must hold no value, else the revision it must have
--          6 most bytes a value may have   7 "<history>:<cap>:<age>": see lib/retention.lua
--          8 "" for a first attempt without idempotency key, else see lib/once.lua
--          9 kind of change, and what it takes:
--            "set"     10 sealed text
--            "delete"  10 "quiet": the old text is not wanted
--            "update"  10 "strict" or "lenient"  11 number of operations, then for each:
--                      name  path length  path segments...  and
--                        add set replace test increment append: value
--                        move copy:                             from length  from segments...
--                        merge:                                 whole value  member count  (name value)...
--                        remove discard:                        nothing
-- RETURNS  set: {revision}   delete: {revision, old text} or {} when there was nothing
--          A third element is the number of unhandled events that the hard cap dropped.
--          The status SEARCHING: call again; whether the request was applied before is not clear yet.
--          update: {revision, new text}; the old revision when no operation touched anything ("0-0" if a foreign write set none)
-- ERRORS   CONFLICT <actual revision or none>
--          TOOLARGE <bytes>   CORRUPT <index> <why>   KEYMISSING   REUSED   UNKNOWN <why>
--          PATHMISSING | BADINDEX | WRONGKIND | TESTFAILED | OVERFLOW | TOODEEP | TOOMUCH <operation index> <detail>
-- COST     set, delete: the bytes of the old and new value. update: see lib/patch.lua.
-- INVARIANT a value changes, its revision is the id of the event that tells so, and the scope is in the set exactly while
--          it holds a value; or nothing changes at all. Everything is checked before the first write. A request is applied once.

local SEAL = "\t\r\t" -- behind every text that this package writes; see codec.py
local values, revisions, scopes, events, trimmed = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local scope, key, request, trace = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local expected, most_bytes, history, again, kind = ARGV[5], tonumber(ARGV[6]), ARGV[7], ARGV[8], ARGV[9]

local function change()
  local old = redis.call("HGET", values, key)
  if expected ~= "" then
    local actual = old and (redis.call("HGET", revisions, key) or "0-0") or "none"
    if actual ~= expected then
      return redis.error_reply("CONFLICT " .. actual)
    end
  end

  -- What stays of the old text at both ends of the new: the event carries only the bytes between.
  local new, prefix, suffix = "", 0, 0
  if kind == "set" then
    new = ARGV[10]
  elseif kind == "delete" then
    if not old then
      return {}
    end
  else
    if not old and ARGV[10] == "strict" then
      return redis.error_reply("KEYMISSING")
    end
    local patch = require("lib.patch")
    local document = patch.new_document(old or "{}" .. SEAL)
    local done, failure = pcall(patch.apply, document, ARGV, 11, ARGV[10] == "strict")
    if not done then
      if type(failure) ~= "table" then
        error(failure, 0)
      end
      return redis.error_reply(failure.code .. " " .. document.operation .. " " .. failure.detail)
    end
    if old and not document.changed then
      return { redis.call("HGET", revisions, key) or "0-0", old }
    end
    new = document.text
    if old then
      prefix, suffix = document.prefix, document.suffix
    end
    if #new > most_bytes + #SEAL then
      return redis.error_reply("TOOLARGE " .. #new - #SEAL)
    end
  end

  local event = old and (kind == "delete" and "state:deleted" or "state:updated") or "state:created"
  local cut = old and string.sub(old, prefix + 1, #old - suffix) or ""
  local revision = redis.call(
    "XADD", events, "*",
    "type", event, "scope", scope, "key", key, "new", new, "old", cut, "kept", prefix .. ":" .. suffix,
    "request", request, "trace", trace
  )
  -- From here on the event has to go again if a write fails, which is when somebody put another type under one of our keys. The
  -- value comes last: HGET has shown that its write cannot fail.
  local written
  if kind == "delete" then
    written = redis.pcall("HDEL", revisions, key)
  else
    written = redis.pcall("HSET", revisions, key, revision)
  end
  if not old and type(written) ~= "table" then
    written = redis.pcall("SADD", scopes, scope)
    if type(written) == "table" then
      redis.call("HDEL", revisions, key)
    end
  end
  if type(written) == "table" then
    redis.call("XDEL", events, revision)
    return written
  end
  if kind == "delete" then
    redis.call("HDEL", values, key)
    if redis.call("EXISTS", values) == 0 then
      redis.pcall("SREM", scopes, scope)
    end
  else
    redis.call("HSET", values, key, new)
  end
  -- One change in 64, by its random request id, looks for what can go: a small part of a look for each.
  if string.find(request, "[048c]0$") then
    local done, lost = pcall(require("lib.retention").trim, redis.call, events, trimmed, history)
    if done and lost then -- else the change stands, whatever went wrong with this
      return { revision, kind == "delete" and old or new, lost }
    end
  end

  if kind == "set" or ARGV[10] == "quiet" then
    return { revision }
  end
  return { revision, kind == "delete" and old or new }
end

-- The first attempt of most requests: nothing to remember and nothing to look up, but that no later attempt has been here.
if again == "" and redis.call("EXISTS", KEYS[6]) == 0 then
  return change()
end
local once = require("lib.once")
local keys = { record = KEYS[6], key = KEYS[7], stream = events, trimmed = trimmed, newest = redis.call("HGET", revisions, key) }
local known = once.before(redis.call, keys, request, again)
if known then
  return known
end
local reply = change()
once.after(redis.call, keys, again, reply)
return reply
