-- Change one value and append the change event, in one atomic step.
--
-- KEYS     1 hash of the scope's values     2 hash of the scope's revisions
--          3 set of the partition's scopes  4 event stream of the key's lane
--          5 record of the request          6 hash that records what was trimmed from the streams
--          7 sorted set of what falls due; 6 and 7 are absent in a set or update without options
--          8 record of the idempotency key; absent without one
--          The names of KEYS 1 and 5 end with the scope and with the request id, so that neither is sent twice
-- ARGV     1 key
--          2 kind of change; or "<kind>\n<trace id>"; or "<kind>\n<trace id>\n<expected>\n<limits>\n<attempt token>\n<ttl>":
--            expected       "" = any revision, "none" = the key must hold no value, else the revision that it must have
--            limits         "" = do not trim, "needed" = keep only what groups need, else see lib/retention.lua
--            attempt token  "" for a first attempt without idempotency key, else see lib/dedupe.lua
--            ttl            "" = a set never expires, an update keeps the time; "never"; milliseconds; "keep:<milliseconds for a
--                           value that is created, "" = never>"
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
--            "expire"  none; it changes only when the value expires
-- RETURNS  set: {revision}; expire: {revision}, {} when the key held no value
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
local request_record, trimmed, due, idempotency_record = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local key, kind, parameter = ARGV[1], ARGV[2], ARGV[3]
local FIRST_PARAMETER = 3 -- where the parameters of the kind begin

local write = require("lib.write")

local trace, expected, limits, attempt_token, ttl = "", "", "", "", ""
local line = string.find(kind, "\n", 1, true)
if line then
  local options = string.find(kind, "\n", line + 1, true)
  if options then
    expected, limits, attempt_token, ttl = string.match(kind, "^([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)$", options + 1)
  end
  trace, kind = string.sub(kind, line + 1, options and options - 1), string.sub(kind, 1, line - 1)
end
local old = redis.call("HGET", values, key)
local expires = old and (string.byte(old, -4) or 0) <= 32 -- canonical JSON does not end with white space: it may expire
-- A first attempt only checks that no later one left a record.
local is_first = attempt_token == "" and redis.call("EXISTS", request_record) == 0

-- A script creates its functions again in every call, so the most frequent changes return before the functions that they do not
-- need.
if is_first and expected == "" and limits == "" and ttl == "" and not expires then
  if kind == "set" and old then
    return write(redis, KEYS, key, trace, nil, old, parameter, nil, "new", parameter, "old", old)
  elseif kind == "set" then
    return write(redis, KEYS, key, trace, nil, old, parameter, nil, "new", parameter)
  elseif old and (kind == "update" or kind == "strict update") then
    local text, first, last = require("lib.direct")(old, #old - 3, ARGV, FIRST_PARAMETER + 1)
    if text and #text <= parameter + 3 then -- with the mark
      return write(redis, KEYS, key, trace, nil, old, require("lib.event_fields")(old, text, first, last))
    end
  end
end

-- PARTS

local is_deletion = kind == "delete" or kind == "drop"
local is_full = false -- whether Redis refused the event of a deletion, because it is over maxmemory
local expired = false -- the text of a value whose time has run out: the change finds no value
local due_member, time, old_time -- when the value expires (Unix milliseconds), and when the old one would have; nil = never
local ending, tail = old and #old - 3, nil -- see lib/plan.lua

if ttl ~= "" or expires then
  local expiry = require("lib.expiry")
  old_time = old and expiry.time_of(old)
  local now = (ttl ~= "" or old_time) and expiry.now(redis.pcall, values)
  if old_time and old_time <= now then
    expired, old = old, false
  end
  time = expiry.new_time(kind, ttl, now, old, old_time)
  ending, tail = expiry.new_tail(kind, old, old_time, time)
  due_member = expiry.due_member(values, events, key)
end

-- Write one change, and a deletion also on a full server. Return the reply.
local function write_one(keys, text, new, ...)
  local event = kind == "expire" and new and "state:ttl" or nil
  local reply = write(redis, keys, key, trace, event, text, new, ...)
  if reply.err and is_deletion then
    local full = require("lib.full")
    if full.is_refusal(reply) then
      is_full = true
      full.allow_writes(redis.call, revisions)
      return write(redis, keys, key, trace, event, text, new, ...)
    end
  end
  return reply
end

-- Write a planned change and return the reply, or the reply of a change that has nothing to write; see lib/plan.lua. A value
-- whose time has run out is deleted first, with an event of its own.
local function carry_out(done, new, ...)
  local reply = done
  if done and (done.err or not expired) then
    return done
  end
  if expired then
    local made = write_one({ values, revisions, scopes, events }, expired, false, nil, "old", expired, "reason", "expired")
    if made.err then
      return made
    end
  end
  if new and time and (expired or time ~= old_time) then
    redis.call("ZADD", due, string.format("%.0f", time), due_member)
  end
  if not done then
    reply = write_one(KEYS, old, new, ...)
  end
  if due and old_time and not reply.err and not (new and time) then
    redis.call("ZREM", due, due_member)
  end
  return reply
end

local function change()
  local plan = require("lib.plan")
  local reply = carry_out(plan(redis, KEYS, key, kind, expected, old, ending, tail, ARGV, FIRST_PARAMETER))
  if reply.err or not reply[1] then
    return reply
  end
  if is_full then
    reply[2], reply[3], reply[4] = reply[2] or "", 0, 2
  end
  if is_full or limits == "needed" then -- a failure to trim must not fail the change
    pcall(require("lib.retention").trim_to_needed, redis.call, events, trimmed)
  elseif limits ~= "" then
    local done, lost = pcall(require("lib.retention").trim, redis.call, events, trimmed, limits, reply[1])
    if done and lost then
      reply[2], reply[3] = reply[2] or "", lost
    end
  end
  return reply
end

if is_first then
  return change()
end
local dedupe = require("lib.dedupe")
local keys = {
  record = request_record, key = idempotency_record, stream = events, trimmed = trimmed, hash = revisions,
  newest = redis.call("HGET", revisions, key),
}
local _, tag = string.find(request_record, "}:request:", 1, true)
local action, known = dedupe.decide(redis.call, keys, string.sub(request_record, tag + 1), attempt_token)
if action == "answer" then
  return known
end
local reply = change()
if is_deletion then
  require("lib.full").allow_writes(redis.call, revisions) -- a deletion that found nothing has not written yet
end
dedupe.record_reply(redis.call, keys, attempt_token, reply)
return reply
