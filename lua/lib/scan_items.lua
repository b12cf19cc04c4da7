-- Scans canonical JSON item by item: for names that cannot be found by their text alone, and for elements by their index.

local byte, find, rep, sub = string.byte, string.find, string.rep, string.sub

local ARRAY, QUOTE, OBJECT, CLOSE_ARRAY, CLOSE_OBJECT, COMMA = 91, 34, 123, 93, 125, 44
local BULK = 16 -- items of one kind that one match skips
local SMALL = 64 -- bytes: a bulk match is tried only after items up to this size, so that no match reads much in vain
local STEP = 1500 -- cost of a step, see patch.lua
local PER_BYTE, PER_DIGIT = 2, 24 -- cost of each byte of an item; a bulk match may have read it before

-- Add the cost of a match over the bytes `first` to `last`, and of the step.
local function spend(document, kind, first, last)
  document.spend(document, STEP + (kind == 0 and PER_DIGIT or PER_BYTE) * (last - first))
end

local VALUES = { [OBJECT] = "%b{}", [ARRAY] = "%b[]", [QUOTE] = '%b""' }
local SCALAR = "[%w+.%-]+"

-- Return the kind of a value: the byte that it starts with, or 0 for a scalar that is no string.
local function kind_of(first)
  return VALUES[first] and first or 0
end

-- Note that an item of a kind comes next: how many small ones of it came in a row decides whether a bulk match is tried.
local function note_kind(cursor, kind)
  if kind ~= cursor.kind then
    cursor.kind, cursor.run = kind, 0
  end
end

-- Step over BULK members of one kind, if none of them ends after `limit`. Return whether that was done.
local function step_in_bulk(cursor, kind, item, limit)
  local document, pos = cursor.document, cursor.pos
  cursor.bulks[kind] = cursor.bulks[kind] or "^" .. rep(sub(item, 2) .. ",", BULK)
  local _, last = find(document.text, cursor.bulks[kind], pos)
  if last and last < limit then
    spend(document, kind, pos, last)
    cursor.pos = last + 1
    return true
  end
  cursor.run = -BULK -- do not try another bulk match before so many members of this kind
  return false
end

-- Step to the next member and return how many members that skipped; 0 at the last one. A bulk match may skip BULK members, if
-- none of them ends after `limit`. COST: one match and the bytes it skips.
local function step(cursor, limit)
  local document, pos = cursor.document, cursor.pos
  local text = document.text
  local kind = kind_of(byte(text, find(text, '"', pos + 1, true) + 2))
  note_kind(cursor, kind)
  local item = cursor.ones[kind] or '^%b"":' .. (VALUES[kind] or SCALAR)
  cursor.ones[kind] = item
  if cursor.run >= 2 and step_in_bulk(cursor, kind, item, limit) then
    return BULK
  end
  local _, last = find(text, item, pos)
  spend(document, kind, pos, last or #text)
  if not last or byte(text, last + 1) ~= COMMA then
    return 0
  end
  cursor.pos, cursor.run = last + 2, last - pos <= SMALL and cursor.run + 1 or 0
  return 1
end

-- Do the same as canonical.find_member. COST: one or two searches per member before the one found, or per BULK of them.
local function find_member(document, open, name)
  local text, needle = document.text, name .. ":"
  if byte(text, open + 1) == CLOSE_OBJECT then
    return nil
  end
  local cursor = { document = document, pos = open + 1, ones = {}, bulks = {}, run = 0, kind = nil }
  while true do
    local candidate = require("lib.search").find_text(document, needle, cursor.pos)
    if not candidate then
      return nil
    end
    while cursor.pos < candidate do
      if step(cursor, candidate) == 0 then
        return nil
      end
    end
    if cursor.pos == candidate then
      return candidate, candidate + #needle
    end
  end
end

-- Skip the element at the cursor, or BULK elements of one kind if `most` allows that. Return how many were skipped; the position
-- of the cursor is nil after the last element. COST: one or two searches and the bytes they skip.
local function skip_elements(cursor, most)
  local document, pos = cursor.document, cursor.pos
  local text, kind = document.text, kind_of(byte(document.text, pos))
  local value = VALUES[kind] or SCALAR
  note_kind(cursor, kind)
  if cursor.run >= BULK and most >= BULK then
    cursor.bulks[kind] = cursor.bulks[kind] or "^" .. rep(value .. ",", BULK)
    local _, last = find(text, cursor.bulks[kind], pos)
    if last then
      spend(document, kind, pos, last)
      cursor.pos = last + 1
      return BULK
    end
    cursor.run = 0
  end
  local last, _
  if kind == QUOTE then
    last = find(text, '"', pos + 1, true)
  else
    _, last = find(text, value, pos)
  end
  spend(document, kind, pos, last or #text)
  cursor.pos = last and byte(text, last + 1) == COMMA and last + 2 or nil
  cursor.run = last and last - pos <= SMALL and cursor.run + 1 or 0
  return 1
end

-- Return the start of element `index` (from 0) of the array opened at `open`; or nil and the number of elements.
-- COST: a search per element before it, or per BULK of one kind.
local function find_element(document, open, index)
  local cursor, count = { document = document, pos = open + 1, bulks = {}, run = 0, kind = nil }, 0
  if byte(document.text, cursor.pos) == CLOSE_ARRAY then
    return nil, 0
  end
  while cursor.pos and count < index do
    count = count + skip_elements(cursor, index - count)
  end
  if cursor.pos then
    return cursor.pos
  end
  return nil, count
end

-- Return the closing bracket of the container opened at `open`. A plain find suffices if `close`, the end of the container around
-- it, is known and no bytes between could end this one earlier. It is slow where brackets are frequent; see canonical.lua.
-- COST: the bytes of the container.
local function container_end(document, open, close)
  local text, kind = document.text, byte(document.text, open)
  if close and #text - open <= document.quick then
    document.cost, document.quick = document.cost + #text - open, document.quick - (#text - open)
    local last = kind == ARRAY and "]" or "}"
    local earlier = last .. (byte(text, close) == CLOSE_OBJECT and ',"' or ",")
    if sub(text, close - 1, close - 1) == last and not find(text, earlier, open, true) then
      return close - 1
    end
  end
  local _, last = find(text, "^" .. VALUES[kind], open)
  document.spend(document, STEP + (last or #text) - open)
  return last
end

return { find_member = find_member, find_element = find_element, container_end = container_end }
