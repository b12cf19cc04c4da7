-- Compares two JSON texts as RFC 6902 defines it for `test`: the order of members, the spelling of strings and the spelling of
-- numbers do not matter. Both texts are read side by side, up to the first difference.

local canonical = require("lib.canonical")
local noncanonical = require("lib.noncanonical")
local number = require("lib.number")

local byte, find, sub = string.byte, string.find, string.sub

local QUOTE, COMMA, ARRAY, OBJECT, CLOSE_ARRAY, CLOSE_OBJECT = 34, 44, 91, 123, 93, 125
local TOKEN, PER_BYTE = 1800, 6 -- cost of a pair of tokens, and of each of their bytes, see patch.lua
local PER_DIGIT = 100 -- of numbers that are spelled differently
local MEMBER = 1500 -- of finding a member in an object of another order

local compare

-- Return the next byte from `pos` on that is no white space.
local function solid(document, pos)
  return document.parser.find_element and noncanonical.solid(document.text, pos, document) or pos
end

-- Return the token of the string at `pos` of the document as codec.py spells it, and its last byte.
local function string_at(document, pos)
  local text = document.text
  if document.parser.find_element then
    local last = noncanonical.string_end(text, pos, document)
    return noncanonical.canonicalize(sub(text, pos, last), document), last
  end
  local last = find(text, '"', pos + 1, true)
  return sub(text, pos, last), last
end

local function is_number(first)
  return first == 45 or first >= 48 and first <= 57
end

-- Compare the arrays at `i` and `j`, as `compare` does.
local function compare_arrays(document, value, i, j)
  local text = document.text
  i, j = solid(document, i + 1), j + 1
  if byte(text, i) == CLOSE_ARRAY or byte(value.text, j) == CLOSE_ARRAY then
    return byte(text, i) == byte(value.text, j), i, j
  end
  while true do
    local same
    same, i, j = compare(document, value, i, j)
    if not same then
      return false
    end
    i, j = solid(document, i + 1), j + 1
    local delimiter = byte(text, i)
    if delimiter ~= byte(value.text, j) then
      return false
    elseif delimiter ~= COMMA then
      return true, i, j
    end
    i, j = solid(document, i + 1), j + 1
  end
end

-- Return where the values of the members from `j` on start, by name, how many there are, and the end of their object.
local function index_members(value, j)
  local starts, count = {}, 0
  while true do
    local name_end = find(value.text, '"', j + 1, true)
    local last = canonical.value_end(value, name_end + 2)
    value.spend(value, MEMBER + PER_BYTE * (name_end - j))
    starts[sub(value.text, j, name_end)] = name_end + 2
    count = count + 1
    if byte(value.text, last + 1) == CLOSE_OBJECT then
      return starts, count, last + 1
    end
    j = last + 2
  end
end

-- Compare the objects at `i` and `j`, as `compare` does. Members in the same order are compared side by side. At the first one
-- that is not, the rest of the given value's members are indexed.
local function compare_objects(document, value, i, j)
  local text = document.text
  local starts, left, close
  i, j = solid(document, i + 1), j + 1
  if byte(text, i) == CLOSE_OBJECT or byte(value.text, j) == CLOSE_OBJECT then
    return byte(text, i) == byte(value.text, j), i, j
  end
  while true do
    local name, name_end = string_at(document, i)
    i = solid(document, solid(document, name_end + 1) + 1)
    document.spend(document, TOKEN + PER_BYTE * #name)
    local start
    if not starts then
      if sub(value.text, j, j + #name) == name .. ":" then
        start = j + #name + 1
      else
        starts, left, close = index_members(value, j)
      end
    end
    if starts then
      start, starts[name], left = starts[name], nil, left - 1
      if not start then
        return false
      end
    end
    local same, last, value_last = compare(document, value, i, start)
    if not same then
      return false
    end
    i = solid(document, last + 1)
    local delimiter, value_delimiter = byte(text, i), byte(value.text, value_last + 1)
    if starts then
      value_delimiter = left > 0 and COMMA or CLOSE_OBJECT
    end
    if delimiter ~= value_delimiter then
      return false
    elseif delimiter ~= COMMA then
      return true, i, close or value_last + 1
    end
    i, j = solid(document, i + 1), value_last + 2
  end
end

-- Compare the values at `i` of the document and at `j` of the given value. Return whether they are equal, and if so the last byte
-- of both.
function compare(document, value, i, j)
  local first, value_first = byte(document.text, i), byte(value.text, j)
  document.spend(document, TOKEN)
  if first ~= value_first and not (is_number(first) and is_number(value_first)) then
    return false
  elseif first == OBJECT then
    return compare_objects(document, value, i, j)
  elseif first == ARRAY then
    return compare_arrays(document, value, i, j)
  elseif first == QUOTE then
    local token, last = string_at(document, i)
    local value_last = j + #token - 1
    document.spend(document, PER_BYTE * #token)
    return sub(value.text, j, value_last) == token, last, value_last
  end
  local last, value_last = canonical.value_end(document, i), canonical.value_end(value, j)
  local token, value_token = sub(document.text, i, last), sub(value.text, j, value_last)
  local same = token == value_token
  if not same and is_number(first) and is_number(value_first) then
    document.spend(document, PER_DIGIT * (#token + #value_token))
    same = number.equal(token, value_token)
  end
  return same, last, value_last
end

-- Return whether the value at `start` of the document equals the canonical text `value`.
-- COST: a few searches per token, up to the first difference. Where the order of members differs, the bytes of their object are
-- read once more.
local function equal(document, start, value)
  local other = {
    text = value,
    spend = function(_, cost)
      document.spend(document, cost)
    end,
  }
  return (compare(document, other, start, 1))
end

return { equal = equal }
