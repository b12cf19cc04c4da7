-- Trims streams: removes entries that no group needs and that are older than the history. `call` is redis.call.

local function is_before(a, b)
  local ms_a, seq_a = string.match(a, "(%d+)-(%d+)")
  local ms_b, seq_b = string.match(b, "(%d+)-(%d+)")
  ms_a, ms_b = tonumber(ms_a), tonumber(ms_b)
  return ms_a < ms_b or (ms_a == ms_b and tonumber(seq_a) < tonumber(seq_b))
end

-- Return the lowest low-water mark of all groups: no group needs an entry up to it. nil = there is no group.
local function first_needed(call, stream)
  local needed
  for _, group in ipairs(call("XINFO", "GROUPS", stream)) do
    for field = 1, #group, 2 do
      if group[field] == "last-delivered-id" then
        local mark = group[field + 1]
        if not needed or is_before(mark, needed) then
          needed = mark
        end
      end
    end
  end
  return needed
end

-- How many entries one XTRIM removes: more than the 64 changes between two calls of `trim`. After how many bytes a call ends and
-- leaves the rest to the next one. Both are about a millisecond of server time, for small entries and for entries of 100 KB.
local AT_ONCE = 100
local BYTES = 1024 * 1024

local function size(entry)
  local bytes = 0
  for _, part in ipairs(entry[2]) do
    bytes = bytes + #part
  end
  return bytes
end

-- Remove the oldest entries of a stream, record the floor, and return the number of entries removed.
local function trim_head(call, stream, trimmed, strategy, threshold)
  local count, bytes, first = 0, 0, nil
  repeat
    local removed = call("XTRIM", stream, strategy, "~", threshold, "LIMIT", AT_ONCE)
    if removed == 0 and count == 0 then -- XTRIM removes whole nodes: on a server set to larger ones, none may fit LIMIT
      removed = call("XTRIM", stream, strategy, "~", threshold)
    end
    if removed > 0 then
      count = count + removed
      first = call("XRANGE", stream, "-", "+", "COUNT", 1)[1]
      bytes = bytes + removed * (first and size(first) or 0) -- an estimate: removed entries are about as large as the next one
    end
  until removed == 0 or bytes >= BYTES
  if count > 0 then
    local time = call("TIME")
    call("HSET", trimmed, "floor " .. stream, first and first[1] or string.format("%.0f-0", time[1] * 1000 + 1000))
  end
  return count
end

-- Return the first id that is younger than `age` milliseconds.
local function first_young(call, age)
  local time = call("TIME")
  return string.format("%.0f-0", math.max(0, time[1] * 1000 + math.floor(time[2] / 1000) - age))
end

-- Trim a stream to its hard cap, first the entries that no group needs. Return how many a group still needed; nil = none.
local function trim_to_cap(call, stream, trimmed, cap, needed)
  if needed then
    trim_head(call, stream, trimmed, "MINID", needed)
  end
  local dropped = trim_head(call, stream, trimmed, "MAXLEN", cap)
  if not needed or dropped == 0 then
    return nil
  end
  call("HINCRBY", trimmed, "dropped " .. stream, dropped)
  return dropped
end

-- Remove entries that no group needs and that are older than the history. A stream within its history count is not trimmed, and
-- entries younger than the age stay. Somewhat more stays, because XTRIM removes whole nodes. Over the hard cap the age does not
-- count, and entries go that a group still needs: return their number; nil = none.
--
-- `limits` is "<history, count>:<cap, count>:<age, milliseconds>". In the hash `trimmed`, "dropped <stream>" counts the entries
-- that a group still needed, and "floor <stream>" is an id after all entries ever trimmed.
-- COST: the number of groups, and the removal of about BYTES, or of AT_ONCE entries where those are more.
local function trim(call, stream, trimmed, limits)
  local history, cap, age = string.match(limits, "^(%d+):(%d+):(%d+)$")
  local length = call("XLEN", stream)
  if length <= tonumber(history) then
    return nil
  end
  local needed = first_needed(call, stream)
  local over_cap = length > tonumber(cap)
  if over_cap then
    return trim_to_cap(call, stream, trimmed, cap, needed)
  end
  local young = age ~= "0" and first_young(call, tonumber(age)) or nil
  if young and not (needed and is_before(needed, young)) then
    needed = young
  end
  if needed then
    trim_head(call, stream, trimmed, "MINID", needed)
  else
    trim_head(call, stream, trimmed, "MAXLEN", history)
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

return { trim = trim, trim_to_needed = trim_to_needed, first_needed = first_needed }
