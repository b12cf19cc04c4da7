-- Say when the cron triggers of a step fire next, and learn how far each has come.
--
-- A worker computes the time that follows `after`, and says it here. Any number of workers do so, without a leader: the first one
-- decides. What is said about another `after` changes nothing.
--
-- FLAGS    allow-oom
-- KEYS     1 sorted set of what falls due in the partition  2 hash that records what was trimmed from the partition's streams
--          3 hash of the step's schedules, see lib/schedules.lua
-- ARGV     1 step; then for each schedule that the worker's version of the step wants:
--          its name
--          after: up to where the caller knows that times have fired (Unix milliseconds; "" = unknown)
--          the time that follows it (Unix milliseconds; "" = unknown, or there is none)
--          what becomes of the time: "time" = it fires then; "late" = it fires even if it was missed; "skip" = it does not fire,
--          nor do those before. "forget": the schedule is forgotten, if it is unwanted since `after`
-- RETURNS  {now (Unix milliseconds), for each schedule of the arguments: after, next (0 = nobody has said which; both 0 for
--          "forget"); then for each other schedule: its name, since when it is unwanted (Unix milliseconds)}
-- ERRORS   none of its own
-- COST     the number of the step's schedules, and for each that changes the logarithm of the number of things that wait
-- INVARIANT a schedule fires each of its times once at most, in their order. A new schedule has no past. A call of a version that
--          does not want a schedule marks it as unwanted, a call of one that does removes the mark. Works over maxmemory: the
--          hash is as small as the code of the steps.

local clock = require("lib.clock")
local full = require("lib.full")
local schedules = require("lib.schedules")

local due, trimmed, known = KEYS[1], KEYS[2], KEYS[3]
local step = ARGV[1]
local FIRST_SCHEDULE = 2

local MOST_AHEAD = 86400000 -- milliseconds: what has fired further ahead of now was fired by a clock that was wrong

local now = clock.due_time(redis.call, trimmed)
local has_written = false

local function write(...)
  if not has_written then
    full.allow_writes(redis.call, trimmed)
    has_written = true
  end
  redis.call(...)
end

local function store(schedule, record)
  write("HSET", known, schedule, schedules.encode(record))
end

-- Take the next time of a schedule from the caller. Return whether the record has changed.
local function take(record, after, time, how)
  if record.next or time == "" or tonumber(after) ~= record.after or tonumber(time) <= record.after then
    return false
  elseif how == "skip" then
    record.after = math.min(tonumber(time), now)
  else
    record.next, record.late = tonumber(time), how == "late"
  end
  return true
end

-- Return the record of a schedule that is wanted, as it is now.
local function follow(schedule, after, time, how)
  local member = schedules.member_of(step, schedule)
  local record, has_changed = schedules.decode(redis.call("HGET", known, schedule)), false
  if not record or record.after > now + MOST_AHEAD then
    record, has_changed = { after = now }, true
    write("ZREM", due, member)
  end
  if record.unwanted then
    record.unwanted, has_changed = nil, true
  end
  if schedules.is_missed(record, now) then
    record.next, has_changed = nil, true
    write("ZREM", due, member)
  end
  has_changed = take(record, after, time, how) or has_changed
  if record.next and not redis.call("ZSCORE", due, member) then
    write("ZADD", due, string.format("%.0f", record.next), member)
  end
  if has_changed then
    store(schedule, record)
  end
  return record
end

local function forget(schedule, since)
  local record = schedules.decode(redis.call("HGET", known, schedule))
  if record and record.unwanted and record.unwanted == tonumber(since) then
    write("ZREM", due, schedules.member_of(step, schedule))
    write("HDEL", known, schedule)
  end
end

local reply, is_wanted = { now }, {}
for index = FIRST_SCHEDULE, #ARGV, 4 do
  local schedule, after, time, how = unpack(ARGV, index, index + 3)
  local record = { after = 0 }
  if how == "forget" then
    forget(schedule, after)
  else
    is_wanted[schedule] = true
    record = follow(schedule, after, time, how)
  end
  reply[#reply + 1] = record.after
  reply[#reply + 1] = record.next or 0
end
for _, schedule in ipairs(redis.call("HKEYS", known)) do
  if not is_wanted[schedule] then
    local record = schedules.decode(redis.call("HGET", known, schedule)) or { after = 0 }
    if not record.unwanted then
      record.unwanted = now
      store(schedule, record)
    end
    reply[#reply + 1] = schedule
    reply[#reply + 1] = record.unwanted
  end
end
return reply
