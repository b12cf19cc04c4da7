-- The short way of an update: one operation that replaces, adds or increments a member of an object, or replaces or increments
-- one of the first hundred elements of an array, in a small canonical document. It returns nothing where the long way
-- (patch.lua) must decide: every error, what is missing and not added, a name that its text alone cannot find. Both ways must
-- agree; the fuzzer compares them.
--
-- A script creates its functions again in every call, and each function costs as much as a search. So there are few.

-- Return the first byte behind the containers of an object that begin at `pos` or later, and before `limit`, which is inside of
-- the last one; or nil, if they are many. COST: two searches and a match for each.
local function skip_containers(text, pos, limit)
  local find = string.find
  for _ = 1, 8 do
    local object, array = find(text, "{", pos, true) or limit, find(text, "[", pos, true) or limit
    local _, last = find(text, object < array and "^%b{}" or "^%b[]", object < array and object or array)
    if not last or last > limit then
      return last and last + 1
    end
    pos = last + 1
  end
end

-- Return where the value of the member `name` (a JSON string token) of the object from `open` to `close` starts; or nil, and
-- whether it is certain that there is no such member. COST: a few plain finds, see canonical.lua. Where the name is behind a
-- brace inside of the object, what is on one side of it is copied twice and matched; and where that one is not the object's own,
-- the containers before it are skipped.
local function find_member(text, open, name, close)
  local find, sub = string.find, string.sub
  local needle = sub(name, 2) .. ":"
  local found, pos = find(text, needle, open + 2, true), open + 1
  local inner = found and find(text, "{", pos, true) or close
  for _ = 1, 4 do
    if not found or found > close then
      return nil, true
    elseif string.byte(text, found - 1) == 34 then
      -- The name is a member of the object itself if the braces before it balance, or those behind it. Brackets need no look,
      -- because a name is always inside of braces.
      local before = "{}"
      if inner < found then
        before = found - open < close - found and sub(text, open, found - 2) .. "}" or "{" .. sub(text, found - 1, close)
      end
      if find(before, "^%b{}$") then
        return found + #needle
      end
      pos = skip_containers(text, pos, found)
      if not pos then
        return nil
      end
      found = pos - 1
    end
    found = find(text, needle, found + 1, true)
  end
end

-- Return the last byte of the value at `first`. COST: a match.
local function value_end(text, first)
  local kind = string.byte(text, first)
  local pattern = kind == 34 and '^%b""' or kind == 123 and "^%b{}" or kind == 91 and "^%b[]" or "^[%w+.%-]+"
  local _, last = string.find(text, pattern, first)
  return last
end

-- Return where the element of the array at `open` starts whose index is the JSON string token `segment`; or nil, if it is not one
-- of the first hundred, or there is none. COST: a match for each element before it.
local function find_element(text, open, segment)
  local index = tonumber(string.match(segment, '^"([1-9]?%d)"$'))
  if not index then
    return nil
  end
  local start = open + 1
  for _ = 1, index do
    local last = value_end(text, start)
    if not last or string.byte(text, last + 1) ~= 44 then
      return nil
    end
    start = last + 2
  end
  return string.byte(text, start) ~= 93 and start or nil
end

-- Follow the `depth` segments of the path behind `cursor`; the JSON ends at `ending`. Return where the value of the last one
-- starts; or nil, and if only that one is missing: the last byte of its object, and what must come before a value that is added
-- there. With `may_add`, the last one must be the member of an object, because an array gets one more element.
local function follow(text, ending, arguments, cursor, depth, may_add)
  local find, byte = string.find, string.byte
  local start = 1
  for level = 1, depth do
    local open, name, found = start, arguments[cursor + level], nil
    local kind = byte(text, open)
    if kind == 91 and not (may_add and level == depth) then
      found = find_element(text, open, name)
    elseif kind == 123 and #name <= 64 and find(name, '^"[^,:}%]\t"]') then
      -- A closing quote is followed by one of , : } ] or the mark. Only a name that starts otherwise can be found by its text
      -- alone.
      local close, is_missing = level == 1 and ending or value_end(text, open)
      if close then
        found, is_missing = find_member(text, open, name, close)
      end
      if is_missing and level == depth then
        return nil, close, (close == open + 1 and "" or ",") .. name .. ":"
      end
    end
    if not found then
      return nil
    end
    start = found
  end
  return start
end

-- Return the last byte of the integer at `first`, and its sum with the integer `amount`; or nil, if these are not two integers of
-- at most 15 digits: a double holds those, and their sum, exactly.
local function add(text, first, amount)
  local find = string.find
  local _, after = find(text, "^%-?%d+[],}\t]", first)
  if after and after - first < 16 and #amount < 16 and find(amount, "^%-?%d+$") then
    return after - 1, string.format("%d", string.sub(text, first, after - 1) + amount)
  end
end

-- Return the name of the operation at `cursor`, the number of its segments, and whether it may add a member; or nil, if there are
-- other operations, or it is none for the short way.
local function only_operation(arguments, cursor)
  local name, depth = arguments[cursor], #arguments - cursor - 1
  if depth ~= 1 then -- more segments, or more operations
    local operation, segments = string.match(name or "", "^(%a+) ([2-4])$")
    name = segments and segments + 0 == depth and operation
  end
  local may_add = name == "set" or name == "add"
  if may_add or name == "increment" or name == "replace" then
    return name, depth, may_add
  end
end

-- Return the new text, and the first and the last byte of the old one that it replaces; or nil. The JSON in `text` ends at
-- `ending`. `arguments` has the operations from `cursor` on, as in the header of mutate.lua.
-- COST: a few searches and matches, each at most the bytes of the text, and two copies of the text.
local function direct(text, ending, arguments, cursor)
  local sub = string.sub
  local operation, depth, may_add = only_operation(arguments, cursor)
  if not operation or #text > 32768 or sub(text, -3) ~= "\t\r\t" then
    return nil
  end
  local value = arguments[cursor + depth + 1]
  local first, close, before = follow(text, ending, arguments, cursor, depth, may_add)
  local last
  if first and operation == "increment" then
    last, value = add(text, first, value)
  elseif first then
    last = value_end(text, first)
  elseif close and may_add then
    first, last, value = close, close - 1, before .. value
  end
  return last and sub(text, 1, first - 1) .. value .. sub(text, last + 1), first, last
end

return direct
