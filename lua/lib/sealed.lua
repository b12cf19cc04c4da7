-- Finds its way in sealed text: compact JSON in which every quote delimits a string and every bracket is structure (codec.py
-- writes it). That lets the balanced matches and plain finds of the C library do the walking, at one to two nanoseconds a byte,
-- where a walk in Lua pays some hundred for every token.
--
-- Functions take a document (see patch.lua) and 1-based byte positions in its text. A nil where a value's end should be means
-- that the text is not what its seal says.

local byte, find, sub = string.byte, string.find, string.sub

local CANDIDATES = 2 -- occurrences of a name deeper inside that are judged one by one, before walking
local MISSES = 8 -- occurrences of a name as the end of another that are passed over, before searching with its quote

-- Whether the name that starts at `start` is a member of the object opened at `open`: true, false when it lies deeper, nil when
-- it lies behind it. `close`, where known, is the object's last byte. Only braces count: what directly holds a name is an object.
-- COST: the bytes between, on the shorter side; next to nothing where there are no braces between.
local function is_member(text, open, close, start)
  local brace = find(text, "{", open + 1, true)
  if not brace or brace > start then
    brace = find(text, "}", open + 1, true)
    if brace and brace < start then
      return nil
    end
    return true
  end
  if close and close - start < start - open then
    local rest = "{" .. sub(text, start, close)
    local _, last = find(rest, "^%b{}")
    return last == #rest
  end
  local before = sub(text, open, start - 1) .. "}"
  local _, last = find(before, "^%b{}")
  if last and last < #before then
    return nil
  end
  return last ~= nil
end

-- The next place from `from` on where the member name `name` (a JSON string token) stands, followed by its colon.
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

-- The member `name` (a JSON string token) of the object opened at `open`: start of its name and of its value, or nil.
-- COST: one plain find and one balanced match up to the member, usually; never more than a walk of the object.
local function find_member(document, open, name, close)
  local text = document.text
  -- Behind a closing quote stands one of , : } ] or the seal. A name that starts otherwise can be found by its text alone.
  if find(name, '^"[^,:}%]\t"]') then
    local from = open
    for _ = 1, CANDIDATES do
      local start = next_name(text, name, from)
      document.work = document.work + (start or #text) - from
      if not start or (close and start > close) then
        return nil
      end
      local verdict = is_member(text, open, close, start)
      if verdict then
        return start, start + #name + 1
      elseif verdict == nil then
        return nil
      end
      from = start + 1
    end
  end
  return require("lib.walk").find_member(document, open, name)
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
