-- Parses non-canonical JSON, which other clients write: with white space and escapes of every form. The whole text is checked
-- first. Text that is not JSON, or that could not be read back, is rejected and never spliced.
--
-- Every token costs a microsecond or two here. Costs are as in patch.lua.

local byte, char, find, gsub, rep, sub = string.byte, string.char, string.find, string.gsub, string.rep, string.sub

local BYTES = 128 * 1024 -- larger texts are rejected unread
local TOKEN = 1800 -- cost of a token
local PER_BYTE, PER_ESCAPE, PER_CHARACTER = 35, 1200, 250 -- of strings; of the forms that a character outside ASCII may have
local PER_DIGIT = 40 -- of a number
local DEPTH = 1000 -- deeper documents cannot be read back by get()
local ESCAPES = '^' .. rep('[^"\\%z\1-\31]*\\["\\/bfnrt]', 8)

-- The spelling that codec.py writes, so that names can be compared as bytes.
local SPELLING = { ["\\/"] = "/", ['\\"'] = "\\u0022", ["\\\\"] = "\\u005c" }
local BRACKETS = { ["{"] = "\\u007b", ["}"] = "\\u007d", ["["] = "\\u005b", ["]"] = "\\u005d" }
local SHORT = { [8] = "\\b", [9] = "\\t", [10] = "\\n", [12] = "\\f", [13] = "\\r" }

local function utf8(code)
  if code < 0x80 then
    return char(code)
  elseif code < 0x800 then
    return char(0xC0 + math.floor(code / 0x40), 0x80 + code % 0x40)
  elseif code < 0x10000 then
    return char(0xE0 + math.floor(code / 0x1000), 0x80 + math.floor(code / 0x40) % 0x40, 0x80 + code % 0x40)
  end
  return char(
    0xF0 + math.floor(code / 0x40000),
    0x80 + math.floor(code / 0x1000) % 0x40,
    0x80 + math.floor(code / 0x40) % 0x40,
    0x80 + code % 0x40
  )
end

-- Return the character `code` as codec.py spells it inside a string.
local function spell(code)
  if SHORT[code] then
    return SHORT[code]
  elseif code < 32 or find(char(code % 256), '["\\{}%[%]]') and code < 128 then
    return string.format("\\u%04x", code)
  end
  return utf8(code)
end

-- Return a string token as codec.py spells it. COST: its bytes, and each escape and bracket.
local function canonicalize(token, document)
  document.spend(document, PER_BYTE * #token)
  if not find(token, "[\\{}%[%]]") then
    return token
  end
  document.spend(document, 3 * PER_BYTE * #token)
  local count
  -- Escaped backslashes first: every `\u` and `\"` that remains is then an escape.
  token, count = gsub(token, '\\["\\/]', SPELLING)
  document.spend(document, PER_ESCAPE * count)
  token, count = gsub(token, "\\u([dD][89aAbB]%x%x)\\u([dD][c-fC-F]%x%x)", function(high, low)
    return utf8(0x10000 + (tonumber(high, 16) - 0xD800) * 0x400 + tonumber(low, 16) - 0xDC00)
  end)
  document.spend(document, 2 * PER_ESCAPE * count)
  token, count = gsub(token, "\\u(%x%x%x%x)", function(hex)
    return spell(tonumber(hex, 16))
  end)
  document.spend(document, 2 * PER_ESCAPE * count)
  token, count = gsub(token, "[{}%[%]]", BRACKETS)
  document.spend(document, PER_ESCAPE * count)
  return token
end

local function solid(text, pos, document)
  local found = find(text, "[^ \t\r\n]", pos) or #text + 1
  document.cost = document.cost + PER_BYTE * (found - pos)
  return found
end

-- Return the closing quote of the string opened at `pos`, or nil. COST: its bytes twice, plus a search per 8 escapes.
local function string_end(text, pos, document)
  pos = pos + 1
  while true do
    local from = pos
    local _, bulk = find(text, ESCAPES, pos)
    pos = find(text, '["\\%z\1-\31]', bulk and bulk + 1 or pos)
    document.spend(document, PER_ESCAPE + 2 * PER_BYTE * ((pos or #text) - from))
    local first = pos and byte(text, pos)
    if first == 34 then
      return pos
    elseif first ~= 92 then
      return nil
    end
    if find(text, '^["\\/bfnrt]', pos + 1) then
      pos = pos + 2
    elseif find(text, "^u[dD][89aAbB]%x%x\\u[dD][c-fC-F]%x%x", pos + 1) then
      pos = pos + 12
    elseif find(text, "^u%x%x%x%x", pos + 1) and not find(text, "^u[dD][89a-fA-F]", pos + 1) then
      pos = pos + 6
    else
      return nil
    end
  end
end

-- Return the last byte of the number or word at `pos`, or nil.
local function scalar_end(text, pos, document)
  local _, last = find(text, "^%-?%d+", pos)
  if not last then
    for _, word in ipairs({ "true", "false", "null" }) do
      if sub(text, pos, pos + #word - 1) == word then
        return pos + #word - 1
      end
    end
    return nil
  end
  if find(text, "^%-?0%d", pos) then
    return nil
  end
  local _, fraction = find(text, "^%.%d+", last + 1)
  last = fraction or last
  local _, exponent = find(text, "^[eE][+-]?%d+", last + 1)
  last = exponent or last
  document.spend(document, PER_DIGIT * (last - pos))
  -- A number that no double can hold could not be read back.
  if last - pos > 300 or exponent then
    local number = tonumber(sub(text, pos, last))
    return number and number - number == 0 and last or nil
  end
  return last
end

-- The functions below share a state: `closers` has the closing brackets of the containers that are open, `depth` is their number,
-- `deepest` the largest one so far. They return nil and the reason where the text is not JSON.

local function no_json(pos)
  return nil, "no JSON at byte " .. pos
end

-- Open the container at `pos`. Return where its first item starts; or nil, nil and its end if it is empty.
local function open_container(document, state, pos)
  local closer = byte(document.text, pos) + 2
  local depth = state.depth + 1
  if depth > DEPTH then
    return nil, "it is nested deeper than 1,000 levels"
  end
  state.deepest = math.max(state.deepest, depth)
  local after = solid(document.text, pos + 1, document)
  if byte(document.text, after) == closer then
    return nil, nil, after
  end
  state.depth, state.closers[depth] = depth, closer
  return after
end

-- Return where the value of the item at `pos` starts, behind the name if it is a member.
local function item_value(document, state, pos)
  if state.closers[state.depth] ~= 125 then
    return pos
  end
  local text = document.text
  local name_end = byte(text, pos) == 34 and string_end(text, pos, document)
  local colon = name_end and solid(text, name_end + 1, document)
  if not colon or byte(text, colon) ~= 58 then
    return no_json(pos)
  end
  document.spend(document, TOKEN)
  return solid(text, colon + 1, document)
end

-- Close the containers that end behind the value that ends at `last`. Return where the next item starts; or nil, nil and the end
-- of the outermost value.
local function next_item(document, state, last)
  local text = document.text
  while state.depth > 0 do
    document.cost = document.cost + TOKEN / 2
    local after = solid(text, last + 1, document)
    local delimiter = byte(text, after)
    if delimiter == 44 then
      return solid(text, after + 1, document)
    elseif delimiter ~= state.closers[state.depth] then
      return no_json(after)
    end
    last, state.depth = after, state.depth - 1
  end
  return nil, nil, last
end

-- Return the last byte of the value at `pos`, nil, and its depth; or nil and the reason why it is not JSON.
-- COST: a few searches per token.
local function checked_end(document, pos)
  local text, state = document.text, { closers = {}, depth = 0, deepest = 0 }
  while true do
    document.spend(document, TOKEN)
    local first = byte(text, pos)
    local item, reason, last
    if first == 123 or first == 91 then
      item, reason, last = open_container(document, state, pos)
    else
      last = (first == 34 and string_end or scalar_end)(text, pos, document)
      if not last then
        return no_json(pos)
      end
    end
    if last then
      item, reason, last = next_item(document, state, last)
      if last then
        return last, nil, state.deepest
      end
    end
    pos = item
    if pos then
      pos, reason = item_value(document, state, pos)
    end
    if not pos then
      return nil, reason
    end
  end
end

-- The forms of a character outside ASCII in UTF-8: no overlong forms, no surrogates, nothing over U+10FFFF.
local CHARACTERS = {
  "^[\194-\223][\128-\191]",
  "^[\225-\236\238\239][\128-\191][\128-\191]",
  "^\224[\160-\191][\128-\191]",
  "^\237[\128-\159][\128-\191]",
  "^[\241-\243][\128-\191][\128-\191][\128-\191]",
  "^\240[\144-\191][\128-\191][\128-\191]",
  "^\244[\128-\143][\128-\191][\128-\191]",
}

-- Return whether the text is UTF-8. COST: one to seven searches per character outside ASCII.
local function is_utf8(document)
  local text = document.text
  document.spend(document, PER_BYTE * #text)
  local pos = find(text, "[\128-\255]")
  while pos do
    local last
    for index = 1, #CHARACTERS do
      local _
      document.cost = document.cost + PER_CHARACTER
      _, last = find(text, CHARACTERS[index], pos)
      if last then
        break
      end
    end
    if not last then
      return false
    end
    document.spend(document, PER_CHARACTER)
    pos = find(text, "[\128-\255]", last + 1)
  end
  return true
end

local function text_end(document, start)
  local last, reason, deepest = checked_end(document, start)
  if not last then
    document.fail("CORRUPT", reason)
  end
  return last, deepest
end

local function depth_of(document, start)
  local _, deepest = text_end(document, start)
  return deepest
end

-- Readers disagree on which of two members with one name counts. An update must not choose one.
local function find_member(document, open, name)
  local text = document.text
  local found_name, found_value
  local pos = solid(text, open + 1, document)
  while byte(text, pos) == 34 do
    document.spend(document, TOKEN)
    local name_end = string_end(text, pos, document)
    local value = solid(text, solid(text, name_end + 1, document) + 1, document)
    if canonicalize(sub(text, pos, name_end), document) == name then
      if found_name then
        document.fail("CORRUPT", "two members of one name")
      end
      found_name, found_value = pos, value
    end
    local after = solid(text, text_end(document, value) + 1, document)
    pos = byte(text, after) == 44 and solid(text, after + 1, document) or #text + 1
  end
  return found_name, found_value
end

local function find_element(document, open, index)
  local text = document.text
  local pos, count = solid(text, open + 1, document), 0
  if byte(text, pos) == 93 then
    return nil, 0
  end
  while count < index do
    local after = solid(text, text_end(document, pos) + 1, document)
    count = count + 1
    if byte(text, after) ~= 44 then
      return nil, count
    end
    pos = solid(text, after + 1, document)
  end
  return pos
end

-- Check the whole text and return the first and last byte of its value.
local function check(document)
  local text = document.text
  if #text > BYTES then
    document.fail("CORRUPT", "too long for an update in place")
  end
  local start = solid(text, 1, document)
  local last = text_end(document, start)
  if solid(text, last + 1, document) <= #text or not is_utf8(document) then
    document.fail("CORRUPT", "no JSON at byte " .. last + 1)
  end
  return start, last
end

-- The functions of canonical.lua and scan_items.lua, for non-canonical texts.
local parser = {
  check = check,
  value_end = text_end,
  depth = depth_of,
  container_end = text_end,
  find_member = find_member,
  find_element = find_element,
}

return { parser = parser, canonicalize = canonicalize, solid = solid, string_end = string_end }
