-- Finds its way in sealed text: compact JSON in which every quote delimits a string and every bracket is structure (codec.py
-- writes it). That lets the balanced matches and plain finds of the C library do the walking, at one to two nanoseconds a byte,
-- where a walk in Lua pays some hundred for every token.
--
-- Positions are 1-based bytes. A nil where a value's end should be means that the text is not what its seal says.

local byte, find, rep, sub = string.byte, string.find, string.rep, string.sub

local QUOTE, ARRAY, OBJECT, CLOSE_OBJECT, CLOSE_ARRAY = 34, 91, 123, 125, 93
local CANDIDATES = 2 -- occurrences of a name that are judged one by one before walking member by member
local BULK = 16 -- items that one match skips while walking
local SMALL = 64 -- bytes: only after an item up to this size is a bulk match tried, so that no match is large for nothing

-- The kinds of value, by first byte, and what matches one.
local function pattern_of(first)
  if first == OBJECT then
    return "%b{}"
  elseif first == ARRAY then
    return "%b[]"
  elseif first == QUOTE then
    return '%b""'
  end
  return "[%w+.%-]+"
end

-- The last byte of the value that starts at `start`. COST: the bytes of the value.
local function value_end(text, start)
  local _, last = find(text, "^" .. pattern_of(byte(text, start)), start)
  return last
end

-- Where the name that starts at `start` lies seen from the object opened at `open`: 0 a member of it, 1 deeper, -1 behind it.
-- `close`, where known, is the object's last byte. Only braces count: what directly holds a name is an object.
-- COST: the bytes between, on the shorter side.
local function place_of(text, open, close, start)
  if close and close - start < start - open then
    local rest = "{" .. sub(text, start, close)
    local _, last = find(rest, "^%b{}")
    return last == #rest and 0 or 1
  end
  local before = sub(text, open, start - 1) .. "}"
  local _, last = find(before, "^%b{}")
  if not last then
    return 1
  end
  return last == #before and 0 or -1
end

-- Skip one item at `pos`, or BULK small ones of its kind when they end before `limit`: the position of the next item, or nil at
-- the end of the container. `prefix` matches what precedes a value: a member's name, or nothing.
local function skip(text, pos, limit, prefix, small)
  local value = pos
  if prefix ~= "" then
    local _, name_end = find(text, prefix, pos)
    value = name_end + 1
  end
  local item = prefix .. pattern_of(byte(text, value))
  if small then
    local _, last = find(text, "^" .. rep(item .. ",", BULK), pos)
    if last and last < limit then
      return last + 1, true, BULK
    end
  end
  local _, last = find(text, "^" .. item, pos)
  if last and byte(text, last + 1) == 44 then
    return last + 2, last - pos <= SMALL, 1
  end
  return nil, false, 1
end

-- Find a member by walking. COST: the bytes before it, plus a few searches per member, or per BULK of them.
local function walk_to_member(text, open, needle)
  local pos, small = open + 1, false
  while pos do
    local candidate = find(text, needle, pos, true)
    if not candidate then
      return nil
    end
    while pos and pos < candidate do
      pos, small = skip(text, pos, candidate, '%b"":', small)
    end
    if pos == candidate then
      return candidate
    end
  end
  return nil
end

-- The member `name` (a JSON string token) of the object opened at `open`: start of its name and of its value, or nil.
-- COST: one plain find and one balanced match up to the member, usually; never more than a walk of the object.
local function find_member(text, open, name, close)
  local needle = name .. ":"
  local start
  -- Behind a closing quote stands one of , : } ] or the seal. A name that starts otherwise can be found by its text alone.
  if not find(name, '^"[,:}%]\t]') then
    local from = open + 1
    for _ = 1, CANDIDATES do
      start = find(text, needle, from, true)
      if not start or (close and start > close) then
        return nil
      end
      local place = place_of(text, open, close, start)
      if place == 0 then
        return start, start + #needle
      elseif place < 0 then
        return nil
      end
      from = start + #needle
    end
  end
  if byte(text, open + 1) == CLOSE_OBJECT then
    return nil
  end
  start = walk_to_member(text, open, needle)
  if start then
    return start, start + #needle
  end
  return nil
end

-- The start of element `index` (from 0) of the array opened at `open`; or nil and the number of elements.
-- COST: the bytes before it, plus a search per BULK elements.
local function find_element(text, open, index)
  local pos, count, small = open + 1, 0, false
  if byte(text, pos) == CLOSE_ARRAY then
    return nil, 0
  end
  while count < index do
    local skipped
    pos, small, skipped = skip(text, pos, #text, "", small and index - count >= BULK)
    count = count + skipped
    if not pos then
      return nil, count
    end
  end
  return pos
end

-- The closing bracket of the container opened at `open`. When `close`, the end of the container around it, is known and the text
-- between holds nothing that could end this one earlier, it is found without reading what lies between in Lua.
-- COST: the bytes of the container.
local function container_end(text, open, close)
  if close then
    local last = byte(text, open) == ARRAY and "]" or "}"
    local earlier = last .. (byte(text, close) == CLOSE_OBJECT and ',"' or ",")
    if sub(text, close - 1, close - 1) == last and not find(text, earlier, open, true) then
      return close - 1
    end
  end
  return value_end(text, open)
end

return {
  value_end = value_end,
  find_member = find_member,
  find_element = find_element,
  container_end = container_end,
}
