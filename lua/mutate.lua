-- Change one value and append the change event, in one atomic step.
--
-- KEYS     1 hash of the scope's values     2 hash of the scope's revisions
--          3 set of the partition's scopes  4 event stream of the key's lane
--          5 record of the request          6 hash that records what was trimmed from the streams
--          7 sorted set of what falls due; 6 and 7 are absent in a set or update without options
--          8 record of the idempotency key, or hash of effects, see lib/dedupe.lua; absent without one; the hash stands at 6 if 6
--            and 7 are absent
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
--            "update"  3 largest size of the result (bytes)  4... for each operation: its name and path, and
--                        add set replace test increment append: value
--                        move copy:                             length of `from`, segments of `from`...
--                        merge:                                 whole value, member count, (name, value)...
--                        remove discard:                        nothing
--                      Name and path are "<name>" and one segment, or "<name> <number of segments>" and the segments...
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

local values, revisions, _, events, request_record, trimmed, due, idempotency_record = unpack(KEYS)
local key, kind, parameter = unpack(ARGV, 1, 3)
local FIRST_PARAMETER, FIRST_OPERATION = 3, 4 -- where the parameters of the kind begin, and the operations of an update

local write = require("lib.write")

local trace, expected, limits, attempt_token, ttl = "", "", "", "", ""
if kind ~= "set" and kind ~= "update" then
  local OPTIONS = "^([^\n]*)\n?([^\n]*)\n?([^\n]*)\n?([^\n]*)\n?([^\n]*)\n?([^\n]*)$" -- each is empty if it is left out
  kind, trace, expected, limits, attempt_token, ttl = string.match(kind, OPTIONS)
end
local sub = string.sub
local _, tag = string.find(values, "}:", 1, true) -- all keys begin with the same hash tag
local scope, request = sub(values, tag + 7), sub(request_record, tag + 9) -- behind "state:" and "request:"
local old = redis.call("HGET", values, key)
local expires = old and (string.byte(old, -4) or 0) <= 32 -- canonical JSON does not end with white space: it may expire
local is_effect = false -- a call of a handler that was not made before, see lib/effect.lua
if attempt_token ~= "" then
  idempotency_record = idempotency_record or not due and trimmed
  is_effect = string.byte(attempt_token) == 64 and not redis.call("HGET", idempotency_record, sub(attempt_token, 2, 17))
end
-- A first attempt only checks that no later one left a record.
local is_first = (attempt_token == "" or is_effect) and redis.call("EXISTS", request_record) == 0

-- A script creates its functions again in every call, so the most frequent changes return before the functions that they do not
-- need.
if is_first and #expected + #limits + #ttl == 0 and not expires then
  local reply
  if kind == "set" and old then
    reply = write(redis, KEYS, scope, key, request, trace, nil, old, parameter, nil, "new", parameter, "old", old)
  elseif kind == "set" then
    reply = write(redis, KEYS, scope, key, request, trace, nil, old, parameter, nil, "new", parameter)
  elseif old and (kind == "update" or kind == "strict update") then
    local text, first, last = require("lib.direct")(old, #old - 3, ARGV, FIRST_OPERATION)
    if text and #text <= parameter + 3 then -- with the mark
      reply = write(redis, KEYS, scope, key, request, trace, nil, old, require("lib.event_fields")(old, text, first, last))
    end
  end
  if reply and is_effect then
    return require("lib.effect").record(redis.call, idempotency_record, attempt_token, reply, kind, parameter)
  elseif reply then
    return reply
  end
end

-- PARTS

if is_first and not is_effect and #expected + #limits == 0 and (expires or ttl ~= "") then
  local change = require("lib.direct_expiry")
  local reply = change(redis, KEYS, ARGV, FIRST_OPERATION, scope, key, request, trace, kind, ttl, old, expires)
  if reply then
    return reply
  end
end

local is_deletion = kind == "delete" or kind == "drop"
local is_full = false -- whether Redis refused the event of a deletion, because it is over maxmemory
local timing = { ending = old and #old - 3 } -- when the value expires, see lib/expiry.lua

if ttl ~= "" or expires then
  timing = require("lib.expiry").plan(redis.pcall, KEYS, key, kind, ttl, old)
  old = not timing.expired and old -- the change finds no value
end

-- Delete the value `text`; without `by_request` it has expired. A call that deletes does so on a full server, too.
local function delete(by_request, text, returned)
  local erase, full = require("lib.erase").erase, require("lib.full")
  local reply = erase(redis, KEYS, scope, key, by_request, trace, text, returned)
  if is_deletion and full.is_refusal(reply) then
    is_full = true
    full.allow_writes(redis.call, revisions)
    reply = erase(redis, KEYS, scope, key, by_request, trace, text, returned)
  end
  return reply
end

-- Write the expiry of a value whose time has run out, with an event of its own. Return an error if Redis refuses it.
local function expire_old()
  local reply = timing.expired and delete(nil, timing.expired)
  return reply and reply.err and reply
end

-- Do what lib/plan.lua returned.
local function carry_out(action, new, ...)
  if action == "unchanged" then
    return { redis.call("HGET", revisions, key) or "0-0", old }
  end
  if action == "write" and timing.is_new then -- before the expiry, because it fails where another client put another type
    redis.call("ZADD", due, string.format("%.0f", timing.time), timing.member)
  end
  local refusal = action == "answer" and new.err and new or expire_old()
  if refusal then
    return refusal
  end
  local reply = new -- the answer
  if action == "delete" then
    reply = delete(request, old, new)
  elseif action == "write" then
    reply = write(redis, KEYS, scope, key, request, trace, kind == "expire" and "state:ttl" or nil, old, new, ...)
  end
  if timing.was_due and due and not reply.err and not (action == "write" and timing.time) then
    redis.call("ZREM", due, timing.member)
  end
  return reply
end

local function change()
  local plan = require("lib.plan")
  local ending, tail = timing.ending, timing.tail
  local reply = carry_out(plan(redis, revisions, key, request, kind, expected, old, ending, tail, ARGV, FIRST_PARAMETER))
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

-- Change the key, unless an earlier attempt at the request did, and record the reply.
local function change_once()
  local dedupe = require("lib.dedupe")
  local keys = {
    record = request_record, key = idempotency_record, stream = events, trimmed = trimmed, hash = revisions,
    newest = redis.call("HGET", revisions, key), kind = kind, parameter = parameter,
  }
  local action, known = dedupe.decide(redis.call, keys, request, attempt_token)
  if action == "answer" then
    return known
  end
  local reply = change()
  if is_deletion then
    require("lib.full").allow_writes(redis.call, revisions) -- a deletion that found nothing has not written yet
  end
  dedupe.record_reply(redis.call, keys, attempt_token, reply)
  return reply
end

-- Change the key, and record the reply if the change is an effect.
local function change_first()
  local reply = change()
  if not is_effect then
    return reply
  elseif is_deletion then
    require("lib.full").allow_writes(redis.call, revisions) -- a deletion that found nothing has not written yet
  end
  return require("lib.effect").record(redis.call, idempotency_record, attempt_token, reply, kind, parameter)
end

return is_first and change_first() or change_once()
