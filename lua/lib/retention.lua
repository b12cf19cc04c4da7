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

-- Trim what nobody needs once the stream is longer than `history`. Whole nodes go, so somewhat more than `history` stays.
-- COST: a look per group and the removal of the entries.
local function trim(call, stream, history)
  if call("XLEN", stream) <= history then
    return
  end
  local needed = first_needed(call, stream)
  if needed then
    call("XTRIM", stream, "MINID", "~", needed)
  else
    call("XTRIM", stream, "MAXLEN", "~", history)
  end
end

return { trim = trim }
