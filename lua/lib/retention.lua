-- Trims streams: removes entries that no group needs and that are older than the history. `call` is redis.call.
--
-- Limits are numbers separated by colons: "<history>:<cap>:<age>:<bytes>:<retry age>", and for a topic's stream also
-- ":<topic cap>:<topic age>:<topic bytes>". Ages are milliseconds, the others but bytes are numbers of entries.
--   history      a stream with at most so many entries is not trimmed, unless it has more than `bytes`
--   cap          the hard cap: over it entries go that a group still needs
--   age          younger entries are kept
--   bytes        over it, entries go that are older than `retry age` and that no group needs. Their size is an estimate
--   retry age    entries that a repeated call may look for; `age` is not smaller
--   topic ...    what a topic keeps that has no group yet; a topic cap of 0: nothing more than other streams
--
-- The hash `trimmed` holds for each stream
--   "floor <stream>"    an id after all entries ever trimmed
--   "removed <stream>"  how many entries were trimmed: with its length, how many the stream has ever had. A watch needs it
--   "dropped <stream>"  how many entries were removed that nobody had handled
--   "sample <stream>"   "<id> <time>": the id of the newest entry at that time; only if the stream's ids were ahead of the clock

local clock = require("lib.clock")
local ids = require("lib.ids")

local function field(flat, name)
  for index = 1, #flat, 2 do
    if flat[index] == name then
      return flat[index + 1]
    end
  end
end

-- Return the id up to which all groups have handled every entry: the smallest mark (last-delivered-id) of a group. Nil when there
-- is no group. No group has pending entries; what is finished above the mark stands elsewhere. COST: the number of groups.
local function first_needed(call, stream)
  local needed
  for _, group in ipairs(call("XINFO", "GROUPS", stream)) do
    local mark = field(group, "last-delivered-id")
    if not needed or ids.is_before(mark, needed) then
      needed = mark
    end
  end
  return needed
end

-- How many entries one XTRIM removes: more than the 64 changes between two calls of `trim`. After how many bytes a call ends and
-- leaves the rest to the next one. Both are about a millisecond of server time, for small entries and for entries of 100 KB.
local AT_ONCE = 100
local BYTES = 1024 * 1024
local TOLERANCE = 1000 -- milliseconds by which an id may be ahead of the clock: the server's clocks are read at different moments

local function size(entry)
  local bytes = 0
  for _, part in ipairs(entry[2]) do
    bytes = bytes + #part
  end
  return bytes
end

-- Remove the oldest entries of a stream, at most about `most` (nil = all that the threshold allows), and record the floor and
-- their number. Return the number, and whether all were removed that could be.
local function trim_head(call, stream, trimmed, strategy, threshold, most)
  local limit = math.min(AT_ONCE, most or AT_ONCE)
  local count, bytes = 0, 0
  local finished, first
  repeat
    local removed = call("XTRIM", stream, strategy, "~", threshold, "LIMIT", limit)
    if removed == 0 and count == 0 and limit < AT_ONCE then -- XTRIM removes whole nodes, and one has more than `most` entries
      removed = call("XTRIM", stream, strategy, "~", threshold, "LIMIT", AT_ONCE)
    end
    if removed == 0 and count == 0 then -- on a server set to larger nodes, none may fit LIMIT
      removed = call("XTRIM", stream, strategy, "~", threshold)
    end
    if removed > 0 then
      count = count + removed
      first = call("XRANGE", stream, "-", "+", "COUNT", 1)[1]
      bytes = bytes + removed * (first and size(first) or 0) -- an estimate: removed entries are about as large as the next one
    end
    finished = removed == 0 or (most and count >= most)
  until finished or bytes >= BYTES
  if count > 0 then
    local floor = first and first[1] or field(call("XINFO", "STREAM", stream), "last-generated-id")
    call("HSET", trimmed, "floor " .. stream, floor)
    call("HINCRBY", trimmed, "removed " .. stream, count)
  end
  return count, finished
end

-- Return an id: the entries before it are older than `age` milliseconds. `newest` is the id of the newest entry.
--
-- An id shows the time of its entry. After the server's clock was set back, new ids go on from the newest one, so they are ahead
-- of the clock and look young for as long. Then the age is judged by a sample of an earlier call: all entries up to its id are at
-- least as old as the sample.
local function first_young(call, stream, trimmed, newest, age)
  local now = clock.now(call)
  local by_id = string.format("%.0f-0", math.max(0, now - age))
  if tonumber(string.match(newest, "^%d+")) <= now + TOLERANCE then
    return by_id
  end
  local name = "sample " .. stream
  local id, taken = string.match(call("HGET", trimmed, name) or "", "^(%S+) (%d+)$")
  taken = tonumber(taken)
  local is_old = taken and now - taken >= age
  if is_old or not taken or taken > now then
    call("HSET", trimmed, name, string.format("%s %.0f", newest, now))
  end
  return is_old and id or by_id
end

-- Return how many of a stream's entries are too many for `bytes`, by their mean size. COST: a sample of the entries.
local function entries_over(call, stream, length, bytes)
  local done, used = pcall(call, "MEMORY", "USAGE", stream) -- an error if the user has no permission
  if not done or not tonumber(used) or used <= bytes then
    return 0
  end
  return math.ceil((used - bytes) * length / used)
end

local function count_dropped(call, stream, trimmed, dropped)
  if dropped == 0 then
    return nil
  end
  call("HINCRBY", trimmed, "dropped " .. stream, dropped)
  return dropped
end

-- Trim a stream to its hard cap, first the entries that no group needs. Return how many a group still needed; nil = none.
local function trim_to_cap(call, stream, trimmed, cap, needed)
  if needed then
    trim_head(call, stream, trimmed, "MINID", needed)
  end
  local dropped = trim_head(call, stream, trimmed, "MAXLEN", cap)
  return needed and count_dropped(call, stream, trimmed, dropped)
end

-- Trim a topic's stream that no group consumes yet. Return how many entries were dropped for their number or size; nil = none.
local function trim_unread(call, stream, trimmed, length, newest, cap, age, bytes)
  local excess = math.max(length - cap, entries_over(call, stream, length, bytes))
  if excess > 0 then
    return count_dropped(call, stream, trimmed, (trim_head(call, stream, trimmed, "MAXLEN", length - excess)))
  end
  trim_head(call, stream, trimmed, "MINID", first_young(call, stream, trimmed, newest, age))
  return nil
end

-- Remove entries that no group needs and that are over the limits. `newest` is the id of the newest entry. Somewhat more stays,
-- because XTRIM removes whole nodes. Over a cap entries go that nobody has handled: return their number; nil = none.
-- COST: the number of groups, and the removal of about BYTES, or of AT_ONCE entries where those are more.
local function trim(call, stream, trimmed, limits, newest)
  local numbers = {}
  for number in string.gmatch(limits, "%d+") do
    numbers[#numbers + 1] = tonumber(number)
  end
  local history, cap, age, bytes, retry_age, topic_cap, topic_age, topic_bytes = unpack(numbers)
  local length = call("XLEN", stream)
  local excess = entries_over(call, stream, length, bytes)
  if length <= history and excess == 0 then
    return nil
  end
  local needed = first_needed(call, stream)
  if not needed and topic_cap and topic_cap > 0 then
    return trim_unread(call, stream, trimmed, length, newest, math.min(cap, topic_cap), topic_age, topic_bytes)
  elseif length > cap then
    return trim_to_cap(call, stream, trimmed, cap, needed)
  end

  -- Return the id up to which entries may go that are older than `least`; nil = all may.
  local function threshold(least)
    local young = least > 0 and first_young(call, stream, trimmed, newest, least) or nil
    return young and not (needed and ids.is_before(needed, young)) and young or needed
  end

  local removed = 0
  if length > history then
    local first = threshold(age)
    removed = trim_head(call, stream, trimmed, first and "MINID" or "MAXLEN", first or history)
  end
  if removed == 0 and excess > 0 then
    local first = threshold(retry_age)
    trim_head(call, stream, trimmed, first and "MINID" or "MAXLEN", first or length - excess, excess)
  end
  return nil
end

-- Remove all entries that no group needs, whatever their number and age. It frees memory on a full server.
-- COST: that of `trim`.
local function trim_to_needed(call, stream, trimmed)
  local needed = first_needed(call, stream)
  if needed then
    trim_head(call, stream, trimmed, "MINID", needed)
  else
    trim_head(call, stream, trimmed, "MAXLEN", 0)
  end
end

-- Trim a step's dead letters. `limits` is "<cap, count>:<age, milliseconds>", `newest` the id of the newest letter. What goes is
-- counted as dropped. Return its number.
-- COST: the removal of about BYTES, or of AT_ONCE letters where those are more.
local function trim_dead(call, dead, trimmed, limits, newest)
  local cap, age = string.match(limits, "^(%d+):(%d+)$")
  local old = first_young(call, dead, trimmed, newest, tonumber(age))
  local dropped, finished = trim_head(call, dead, trimmed, "MINID", old)
  if finished then -- the rest of the first node
    dropped = dropped + call("XTRIM", dead, "MINID", "=", old)
  end
  local excess = call("XLEN", dead) - tonumber(cap)
  if excess > AT_ONCE then
    dropped = dropped + trim_head(call, dead, trimmed, "MAXLEN", cap)
  elseif excess > 0 then
    dropped = dropped + call("XTRIM", dead, "MAXLEN", "=", cap)
  end
  count_dropped(call, dead, trimmed, dropped)
  return dropped
end

return { trim = trim, trim_to_needed = trim_to_needed, trim_dead = trim_dead, first_needed = first_needed }
