-- Which entries of a stream may go: those that no group still needs, beyond a history.

local function is_before(a, b)
  local ms_a, seq_a = string.match(a, "(%d+)-(%d+)")
  local ms_b, seq_b = string.match(b, "(%d+)-(%d+)")
  ms_a, ms_b = tonumber(ms_a), tonumber(ms_b)
  return ms_a < ms_b or (ms_a == ms_b and tonumber(seq_a) < tonumber(seq_b))
end

-- The first entry that a group still needs; nil when there is no group. `call` is redis.call. COST: one look per group.
local function first_needed(call, stream)
  local needed
  for _, group in ipairs(call("XINFO", "GROUPS", stream)) do
    local name, position
    for field = 1, #group, 2 do
      if group[field] == "name" then
        name = group[field + 1]
      elseif group[field] == "last-delivered-id" then
        position = group[field + 1]
      end
    end
    local pending = call("XPENDING", stream, name)
    if pending[1] > 0 then
      position = pending[2]
    end
    if not needed or is_before(position, needed) then
      needed = position
    end
  end
  return needed
end

-- How many entries go at once, more than the 64 changes that come between two looks; and how many bytes one look removes before
-- it leaves the rest to the next. Both are about a millisecond of the server's time, be the entries small or of 100 KB.
local AT_ONCE = 100
local BYTES = 1024 * 1024

local function size(entry)
  local bytes = 0
  for _, part in ipairs(entry[2]) do
    bytes = bytes + #part
  end
  return bytes
end

-- Cut the oldest entries off a stream; returns their number.
local function cut(call, stream, trimmed, how, limit)
  local count, bytes, first = 0, 0, nil
  repeat
    local gone = call("XTRIM", stream, how, "~", limit, "LIMIT", AT_ONCE)
    if gone == 0 and count == 0 then -- whole nodes go: on a server that is set to larger ones, none may fit
      gone = call("XTRIM", stream, how, "~", limit)
    end
    if gone > 0 then
      count = count + gone
      first = call("XRANGE", stream, "-", "+", "COUNT", 1)[1]
      bytes = bytes + gone * (first and size(first) or 0) -- what went was about as large as what comes next
    end
  until gone == 0 or bytes >= BYTES
  if count > 0 then
    local time = call("TIME")
    call("HSET", trimmed, "floor " .. stream, first and first[1] or string.format("%.0f-0", time[1] * 1000 + 1000))
  end
  return count
end

-- Trim what nobody needs and is older than the history: a stream no longer than its count stays as it is, and entries younger
-- than its age stay. Whole nodes go, so somewhat more stays. Beyond the hard cap the age does not count, and events go that a
-- group still needs; their number is returned. In the hash `trimmed`, "dropped <stream>" counts those, and "floor <stream>" is an
-- id behind all that were ever trimmed. `limits` is "<history, count>:<cap>:<age, milliseconds>".
-- COST: a look per group and the removal of BYTES, or of AT_ONCE entries where those are more.
local function trim(call, stream, trimmed, limits)
  local history, cap, age = string.match(limits, "^(%d+):(%d+):(%d+)$")
  local length = call("XLEN", stream)
  if length <= tonumber(history) then
    return nil
  end
  local needed = first_needed(call, stream)
  local crowded = length > tonumber(cap)
  if not needed and (age == "0" or crowded) then
    cut(call, stream, trimmed, "MAXLEN", crowded and cap or history)
    return nil
  end
  local oldest = needed
  if age ~= "0" and not crowded then
    local time = call("TIME")
    local young = string.format("%.0f-0", math.max(0, time[1] * 1000 + math.floor(time[2] / 1000) - tonumber(age)))
    if not needed or is_before(young, needed) then
      oldest = young
    end
  end
  cut(call, stream, trimmed, "MINID", oldest)
  if not crowded then
    return nil
  end
  local lost = cut(call, stream, trimmed, "MAXLEN", cap)
  if lost > 0 then
    call("HINCRBY", trimmed, "dropped " .. stream, lost)
    return lost
  end
  return nil
end

return { trim = trim }
