-- Compares ids of stream entries.

-- Return whether an id is smaller than another one. Sequence numbers near 2^64 count as equal if they differ by little.
local function is_before(a, b)
  local ms_a, seq_a = string.match(a, "(%d+)-(%d+)")
  local ms_b, seq_b = string.match(b, "(%d+)-(%d+)")
  ms_a, ms_b = tonumber(ms_a), tonumber(ms_b)
  return ms_a < ms_b or (ms_a == ms_b and tonumber(seq_a) < tonumber(seq_b))
end

return { is_before = is_before }
