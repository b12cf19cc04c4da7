-- Finds its way in sealed text: compact JSON in which every quote delimits a string and every bracket is structure (codec.py
-- writes it). That lets the balanced matches and plain finds of the C library do the walking, at one to two nanoseconds a byte,
-- where a walk in Lua pays some hundred for every token.
--
-- Functions take a document (see patch.lua) and 1-based byte positions in its text. A nil where a value's end should be means
-- that the text is not what its seal says.

local byte, find, sub = string.byte, string.find, string.sub

local MISSES = 8 -- occurrences of a name as the end of another that are passed over, before searching with its quote
local NOWHERE = math.huge
local NEAR = 4096 -- bytes: so near to the end of the object, what follows a name is cheaper to judge than what precedes it
local STEP = 400 -- what passing a container costs, in bytes that a copy would move in that time

-- The next place from `from` on where the member name `name` (a JSON string token) stands, followed by its colon; or nil.
-- COST: one plain find, which is fastest without the quote in front: quotes are everywhere.
local function next_name(text, name, from)
  local bare = sub(name, 2) .. ":"
  local found = from
  for _ = 1, MISSES do
    found = find(text, bare, found + 1, true)
    if not found then
      return nil
    elseif byte(text, found - 1) == 34 then
      return found - 1
    end
  end
  return find(text, name .. ":", found, true)
end

-- The member `name` (a JSON string token) of the object opened at `open`: start of its name and of its value, or nil. `close`,
-- where known, is the last byte of the outermost object, behind which nothing follows.
-- COST: plain finds up to the member, and a balanced match for each container between that is not inside of another. The text is
-- not copied: making a Lua string costs as much as a balanced match over it.
local function find_member(document, open, name, close)
  -- Behind a closing quote stands one of , : } ] or the seal. Only a name that starts otherwise can be found by its text alone.
  if not find(name, '^"[^,:}%]\t"]') then
    return require("lib.walk").find_member(document, open, name)
  end
  local text, pos = document.text, open + 1
  local object, array, ended = 0, 0, close and NOWHERE or 0
  local start = next_name(text, name, pos)
  if start and close and close - start < NEAR then
    -- What is opened behind the name is closed again, and then the object itself: the name is a member of it.
    local rest = "{" .. sub(text, start, close)
    local _, last = find(rest, "^%b{}")
    if last == #rest then
      return start, start + #name + 1
    end
  end
  while start do
    -- From `pos`, which is in no container inside of the object, pass the containers before the name.
    while pos <= start do
      object = object < pos and (find(text, "{", pos, true) or NOWHERE) or object
      array = array < pos and (find(text, "[", pos, true) or NOWHERE) or array
      ended = ended < pos and (find(text, "}", pos, true) or NOWHERE) or ended
      local inner = object < array and object or array
      if ended < start and ended < inner then
        return nil
      elseif inner > start then
        document.work = document.work + start - open
        return start, start + #name + 1
      end
      local _, last = find(text, object < array and "^%b{}" or "^%b[]", inner)
      if not last then
        return nil
      end
      pos = last + 1
      document.work = document.work + STEP
      if document.work > document.budget then
        document.fail("TOOMUCH", "items walked")
      end
    end
    -- The name stood inside of a container, as do all others before its end.
    start = next_name(text, name, pos)
  end
  document.work = document.work + #text - open
  return nil
end

-- The last byte of the value that starts at `start`. COST: the bytes of the value.
local function value_end(document, start)
  local text = document.text
  local first = byte(text, start)
  if first == 34 then
    return (find(text, '"', start + 1, true))
  end
  local _, last
  if first == 123 then
    _, last = find(text, "^%b{}", start)
  elseif first == 91 then
    _, last = find(text, "^%b[]", start)
  else
    _, last = find(text, "^[%w+.%-]+", start)
  end
  return last
end

return { find_member = find_member, value_end = value_end }
