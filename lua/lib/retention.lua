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

-- Trim what nobody needs and is older than the history: a stream no longer than its count stays as it is, and entries younger
-- than its age stay. Whole nodes go, so somewhat more stays. Beyond the hard cap events go that a group still needs; they are
-- counted in the hash `dropped`, and their number is returned. `limits` is "<history, count>:<cap>:<history, milliseconds>".
-- COST: a look per group and the removal of the entries, at most some 10,000.
local function trim(call, stream, dropped, limits)
  local history, cap, age = string.match(limits, "^(%d+):(%d+):(%d+)$")
  local length = call("XLEN", stream)
  if length <= tonumber(history) then
    return nil
  end
  local oldest = first_needed(call, stream)
  if age ~= "0" and length <= tonumber(cap) then
    local young = string.format("%.0f-0", math.max(0, call("TIME")[1] * 1000 - tonumber(age)))
    if not oldest or is_before(young, oldest) then
      oldest = young
    end
  end
  if not oldest then
    call("XTRIM", stream, "MAXLEN", "~", history)
    return nil
  end
  call("XTRIM", stream, "MINID", "~", oldest)
  if length <= tonumber(cap) then
    return nil
  end
  local lost = call("XLEN", stream)
  call("XTRIM", stream, "MAXLEN", "~", cap)
  lost = lost - call("XLEN", stream)
  if lost > 0 then
    call("HINCRBY", dropped, stream, lost)
    return lost
  end
  return nil
end

return { trim = trim }
