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

-- Return the next position of a bracket from `pos` on, or NOWHERE; `known` is what the last call for this bracket returned.
local function next_bracket(document, bracket, pos, known)
  if known >= pos then
    return known
  end
  local found = find(document.text, bracket, pos, true)
  document.cost = document.cost + BRACKET + ((found or #document.text) - pos) / 4
  return found or NOWHERE
end

-- Return whether the brackets from `start` on balance up to `close`, the end of an object: then what starts there is an item of
-- the object itself. COST: the bytes between.
local function is_own(document, start, close)
  document.cost = document.cost + 5 * (close - start)
  return find("{" .. sub(document.text, start, close), "^%b{}$") ~= nil
end

-- Skip the containers of an object that begin at `pos` or later, and before the name at `start`. `pos` is in the object itself.
-- `next_of` has the next brackets that are known: object, array and end (of the object; NOWHERE if nothing follows it).
-- Return "own" if the name is in the object itself; "inside" and the first byte after the container that the name is inside of;
-- or "end" if the object ends before the name, or its text is not canonical JSON.
local function skip_to(document, pos, start, next_of)
  while pos <= start do
    next_of.object = next_bracket(document, "{", pos, next_of.object)
    next_of.array = next_bracket(document, "[", pos, next_of.array)
    next_of.close = next_bracket(document, "}", pos, next_of.close)
    local inner = math.min(next_of.object, next_of.array)
    if next_of.close < start and next_of.close < inner then
      return "end"
    elseif inner > start then
      return "own"
    end
    local _, last = find(document.text, inner == next_of.object and "^%b{}" or "^%b[]", inner)
    document.spend(document, STEP + (last or #document.text) - inner)
    if not last then
      return "end"
    end
    pos = last + 1
  end
  return "inside", pos
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
  local pos, next_of = open + 1, { object = 0, array = 0, close = close and NOWHERE or 0 }
  local start = next_name(document, name, pos)
  if start and close and close - start < NEAR and is_own(document, start, close) then
    return start, start + #name + 1
  end
  while start do
    local where, after = skip_to(document, pos, start, next_of)
    if where == "own" then
      return start, start + #name + 1
    elseif where == "end" then
      return nil
    end
    -- All occurrences of the name before the end of that container are inside of it, too.
    pos, start = after, next_name(document, name, after)
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
