-- Let things of one partition happen whose time has come, the earliest first.
--
-- A member of the sorted set is "<kind>:<what>", and its score is the time. A new kind is a function of `fire` below.
--
-- FLAGS    allow-oom
-- KEYS     1 sorted set of what falls due in the partition  2 hash of the partition's delayed messages
--          3 hash that records what was trimmed from the partition's streams  4 set of the partition's topics
--          5 set of the partition's scopes  6... other keys of the partition that may be written
-- ARGV     1 how many things may happen (0 to 1000; 0 = only look)  2 after how many bytes the call ends
--          3 "" = do not trim; else the limits of a topic's stream, see lib/retention.lua; those of events are their first part
-- RETURNS  {number of things that happened, milliseconds until the next is due (0 = now; -1 = nothing waits),
--            number of unhandled messages that a cap dropped, {keys that are missing in KEYS: call again with them},
--            {errors of things that were put off}, number of values that have expired}
-- ERRORS   none of its own
-- COST     the number of things and their bytes, and for each the logarithm of the number that wait; at most one thing over the
--          bytes. With limits, also a trim of one stream
-- INVARIANT each thing happens once, whoever calls: it is gone from the sorted set in the same step. A thing that fails waits for
--          another ten seconds, and holds up no other one. Works over maxmemory: what waits only moves.

local clock = require("lib.clock")
local delayed_messages = require("lib.delayed")
local append = require("lib.erase").append
local expiry = require("lib.expiry")
local full = require("lib.full")
local schedules = require("lib.schedules")

local due, delayed, trimmed, topics, scopes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local most, most_bytes, limits = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local event_limits = string.match(limits, "^(.*):%d+:%d+:%d+$") or ""
local FIRST_OTHER = 6

local now = clock.due_time(redis.call, trimmed)

local function wait_for_next()
  local first = redis.call("ZRANGE", due, 0, 0, "WITHSCORES")
  return first[2] and math.max(0, math.ceil(first[2] - now)) or -1
end

local wait = wait_for_next()
if wait ~= 0 or most == 0 then
  return { 0, wait, 0, {}, {}, 0 }
end

local PUT_OFF = 10000 -- milliseconds
local MOST_MISSING = 200 -- keys that one reply names

local tag = string.match(due, "^(.*)due$")
local is_given, missing, errors = {}, {}, {} -- of a key: true, false = it is in `missing`
for index = FIRST_OTHER, #KEYS do
  is_given[KEYS[index]] = true
end
local bytes, newest, newest_stream, newest_limits = 0, nil, nil, ""

-- Return whether the call has all these keys.
local function has_keys(...)
  local has_all = true
  for _, name in ipairs({ ... }) do
    if is_given[name] == nil and #missing < MOST_MISSING then
      is_given[name] = false
      missing[#missing + 1] = name
    end
    has_all = has_all and is_given[name]
  end
  return has_all
end

-- Each function lets one thing happen. It returns "done"; or "left" = the call lacks a key, or it is not due yet; or an error,
-- and then nothing has changed.
local fire = {}

function fire.message(id)
  local record = redis.call("HGET", delayed, id)
  if not record then
    return "done" -- another client removed the message
  end
  bytes = bytes + #record
  local message = delayed_messages.decode(record, tag)
  if not message then
    return "the record of the message cannot be read"
  end
  if not has_keys(message.stream) then
    return "left"
  end
  local entry = delayed_messages.append(redis.pcall, topics, id, message)
  if type(entry) == "table" then
    return entry.err
  end
  newest, newest_stream, newest_limits = entry, message.stream, limits
  redis.call("HDEL", delayed, id)
  return "done"
end

-- Scopes whose values expire in this call, by the name of their hash: {revisions, scope, error, keys that have expired}. All of
-- their keys are deleted together at the end, because one call costs less than many.
local groups = {}
local places = {} -- by "<lane>:<bytes of the scope>:<scope>": {group, stream of the lane, name of the hash}; false = not given

local function find_place(prefix, lane, scope)
  local place = places[prefix]
  if place == nil then
    local values, revisions, events = tag .. "state:" .. scope, tag .. "revision:" .. scope, tag .. "events:" .. lane
    place = false
    if has_keys(values, revisions, events) then
      local group = groups[values]
      if not group then
        local found = redis.pcall("HEXISTS", revisions, "") -- a deletion from another type would fail after the events
        group = { revisions = revisions, scope = scope, failure = type(found) == "table" and found.err, keys = {} }
        groups[values] = group
      end
      place = { group = group, events = events, values = values }
    end
    places[prefix] = place
  end
  return place
end

-- The time behind the value counts: the value may have been changed since.
function fire.expiry(what, member)
  local lane, size, first = string.match(what, "^(%d+):(%d+):()")
  if not lane then
    return "the name of the value cannot be read"
  end
  local last = first + size - 1
  local place = find_place(string.sub(what, 1, last), lane, string.sub(what, first, last))
  if not place then
    return "left"
  end
  local group, key = place.group, string.sub(what, last + 1)
  local text = redis.pcall("HGET", place.values, key)
  if type(text) == "table" then
    return text.err
  end
  local time = text and expiry.time_of(text)
  if not time then
    return "done"
  elseif time > now then
    redis.call("ZADD", due, string.format("%.0f", time), member)
    return "left"
  elseif group.failure then
    return group.failure
  end
  bytes = bytes + #text
  local revision = append(redis.pcall, place.events, group.scope, key, nil, "", text)
  if type(revision) == "table" then
    return revision.err
  end
  group.keys[#group.keys + 1] = key
  newest, newest_stream, newest_limits = revision, place.events, event_limits
  return "done"
end

-- A time of a cron trigger. The stream is there as long as the step has a group on it, so none is made here.
function fire.schedule(what)
  local step, schedule = schedules.split(what)
  if not step then
    return "the name of the schedule cannot be read"
  end
  local known, stream = tag .. "schedules:" .. step, tag .. "cron:" .. step
  if not has_keys(known, stream) then
    return "left"
  end
  local text = redis.pcall("HGET", known, schedule)
  if type(text) == "table" then
    return text.err
  end
  local record = schedules.decode(text or "")
  if not (record and record.next) then
    return "done" -- nobody wants it any more
  elseif record.next > now then
    redis.call("ZADD", due, string.format("%.0f", record.next), "schedule:" .. what)
    return "left"
  elseif not schedules.is_missed(record, now) then
    local time = string.format("%.0f", record.next)
    local fields = { "type", "cron", "schedule", schedule, "due", time, "fired", string.format("%.0f", now) }
    local entry = redis.pcall("XADD", stream, "NOMKSTREAM", "*", unpack(fields))
    if type(entry) == "table" then
      return entry.err
    elseif not entry then
      redis.call("HDEL", known, schedule) -- the step is gone
      return "done"
    end
    bytes = bytes + #schedule
    newest, newest_stream, newest_limits = entry, stream, limits
    record.after, record.late = record.next, false
  end
  record.next = nil
  redis.call("HSET", known, schedule, schedules.encode(record))
  return "done"
end

local expired = 0

local function delete_expired()
  for values, group in pairs(groups) do
    if group.keys[1] then
      expired = expired + #group.keys
      redis.call("HDEL", group.revisions, unpack(group.keys))
      redis.call("HDEL", values, unpack(group.keys))
      if redis.call("EXISTS", values) == 0 then
        redis.pcall("SREM", scopes, group.scope)
      end
    end
  end
end

full.allow_writes(redis.call, trimmed)
local happened = {} -- members that are removed together: one call costs less than many
for _, member in ipairs(redis.call("ZRANGEBYSCORE", due, "-inf", string.format("%.0f", now), "LIMIT", 0, most)) do
  local kind, what = string.match(member, "^(%a+):(.*)$")
  local outcome = fire[kind] and fire[kind](what, member) or "this version does not know the kind"
  if outcome == "done" then
    happened[#happened + 1] = member
  elseif outcome ~= "left" then
    redis.call("ZADD", due, string.format("%.0f", now + PUT_OFF), member)
    errors[#errors + 1] = member .. ": " .. outcome
  end
  if bytes >= most_bytes then
    break
  end
end
delete_expired()
if #happened > 0 then
  redis.call("ZREM", due, unpack(happened))
end
local dropped = 0
if newest_limits ~= "" then
  local trimming, lost = pcall(require("lib.retention").trim, redis.call, newest_stream, trimmed, newest_limits, newest)
  dropped = trimming and lost or 0
end
return { #happened, wait_for_next(), dropped, missing, errors, expired }
