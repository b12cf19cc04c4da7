-- Finds members and values in canonical JSON: compact JSON, written by codec.py, in which every quote delimits a string and every
-- bracket is structure. So balanced matches and plain finds of the C library can search it, at one to two nanoseconds a byte. A
-- parser in Lua pays about a hundred nanoseconds for every token.
--
-- Functions take a document (see patch.lua) and 1-based byte positions in its text. They return nil for the end of a value when
-- the text has the canonical mark but is not canonical JSON.

local byte, find, sub = string.byte, string.find, string.sub

local MISSES = 8 -- how often a name may match as the end of another name, before the search is left to search.lua
local LONG = 64 -- bytes: longer names are left to search.lua, too
local NOWHERE = math.huge
local NEAR = 4096 -- bytes: this near to the end of the object, it is cheaper to check what follows a name than what precedes it
local STEP = 2000 -- cost of skipping a container, see patch.lua
local BRACKET = 300 -- cost of finding a bracket
local PER_DIGIT = 12 -- cost of each byte of a number

-- Return the next position from `from` on of the member name `name` (a JSON string token) with its colon; or nil.
-- COST: one plain find. It is fastest without the opening quote, because quotes are frequent. But where the next byte is more
-- frequent, it is slow. So only the first QUICK bytes of a call are searched in this way.
local function next_name(document, name, from)
  local text, found = document.text, from
  if #text - from <= document.quick and #name <= LONG then
    local bare = sub(name, 2) .. ":"
    for _ = 1, MISSES do
      found = find(text, bare, found + 1, true)
      if not found or byte(text, found - 1) == 34 then
        local bytes = (found or #text) - from
        document.cost, document.quick = document.cost + bytes, document.quick - bytes
        return found and found - 1
      end
    end
  end
  return require("lib.search").next_name(document, name, found)
end

-- Return the next position of a bracket from `pos` on, or NOWHERE.
local function next_bracket(document, bracket, pos)
  local found = find(document.text, bracket, pos, true)
  document.cost = document.cost + BRACKET + ((found or #document.text) - pos) / 4
  return found or NOWHERE
end

-- Return where the member `name` (a JSON string token) of the object opened at `open` starts, and where its value does; or nil.
-- `close`, if known, is the last byte of the outermost object; nothing follows it.
-- COST: plain finds up to the member, and a balanced match for each container before it that is not inside another one. The text
-- is not copied, because making a Lua string costs as much as a balanced match over it.
local function find_member(document, open, name, close)
  -- A closing quote is followed by one of , : } ] or the mark. Only a name that starts otherwise can be found by its text alone.
  if not find(name, '^"[^,:}%]\t"]') then
    return require("lib.scan_items").find_member(document, open, name)
  end
  local text, pos = document.text, open + 1
  local object, array, ended = 0, 0, close and NOWHERE or 0
  local start = next_name(document, name, pos)
  if start and close and close - start < NEAR then
    document.cost = document.cost + 5 * (close - start)
    -- If the brackets after the name balance up to the end of the object, then the name is a member of the object itself.
    local rest = "{" .. sub(text, start, close)
    local _, last = find(rest, "^%b{}")
    if last == #rest then
      return start, start + #name + 1
    end
  end
  while start do
    -- `pos` is in no container inside the object. Skip the containers between it and the name.
    while pos <= start do
      object = object < pos and next_bracket(document, "{", pos) or object
      array = array < pos and next_bracket(document, "[", pos) or array
      ended = ended < pos and next_bracket(document, "}", pos) or ended
      local inner = object < array and object or array
      if ended < start and ended < inner then
        return nil
      elseif inner > start then
        return start, start + #name + 1
      end
      local _, last = find(text, object < array and "^%b{}" or "^%b[]", inner)
      document.spend(document, STEP + (last or #text) - inner)
      if not last then
        return nil
      end
      pos = last + 1
    end
    -- The name was inside a container, as are all its occurrences before the end of that container.
    start = next_name(document, name, pos)
  end
  return nil
end

-- Return the last byte of the value that starts at `start`. COST: the bytes of the value.
local function value_end(document, start)
  local text = document.text
  local first = byte(text, start)
  local per_byte = 1
  local last, _
  if first == 34 then
    last = find(text, '"', start + 1, true)
  elseif first == 123 then
    _, last = find(text, "^%b{}", start)
  elseif first == 91 then
    _, last = find(text, "^%b[]", start)
  else
    _, last = find(text, "^[%w+.%-]+", start)
    per_byte = PER_DIGIT
  end
  document.spend(document, per_byte * ((last or #text) - start))
  return last
end

return { find_member = find_member, value_end = value_end }
