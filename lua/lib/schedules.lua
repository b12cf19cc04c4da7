-- The schedules of cron triggers: what is known of each.
--
-- The hash "schedules:<step>" of a partition holds for each schedule of a step, "<time zone> <expression>":
-- "<after>:<next>:<late>:<unwanted>", all but `late` in Unix milliseconds
--   after     times up to here have fired, or never will
--   next      the time that fires next; "" = nobody has said yet which
--   late      "late" if it fires however late it is; else it was missed after GRACE
--   unwanted  when a worker of the step first did not want the schedule; "" = all want it
-- The sorted set `due` has the member "schedule:<bytes of the step>:<step><schedule>" with `next` as its score.

local GRACE = 60000 -- milliseconds by which a time may be late that was not missed

local function member_of(step, schedule)
  return string.format("schedule:%d:%s%s", #step, step, schedule)
end

-- Return step and schedule of a member without its kind; or nil.
local function split(what)
  local size, first = string.match(what, "^(%d+):()")
  if not size then
    return nil
  end
  return string.sub(what, first, first + size - 1), string.sub(what, first + size)
end

-- Return whether a stream is that of a step's cron triggers.
local function is_stream(stream)
  return string.find(stream, "^{[^}]*}:cron:") ~= nil
end

local function encode(record)
  local function number(value)
    return value and string.format("%.0f", value) or ""
  end
  local late = record.late and "late" or ""
  return string.format("%s:%s:%s:%s", number(record.after), number(record.next), late, number(record.unwanted))
end

-- Return the record of a text; nil if there is none, or another client wrote it.
local function decode(text)
  local after, following, late, unwanted = string.match(text or "", "^(%d+):(%d*):(%a*):(%d*)$")
  return after and {
    after = tonumber(after), next = tonumber(following), late = late == "late", unwanted = tonumber(unwanted),
  }
end

-- Return whether the next time of a record was missed.
local function is_missed(record, now)
  return record.next and not record.late and now - record.next > GRACE
end

return { member_of = member_of, split = split, is_stream = is_stream, encode = encode, decode = decode, is_missed = is_missed }
