-- The short way of an update: one operation that replaces, adds or increments a member of an object in a small canonical
-- document. It returns nothing where the long way (patch.lua) must decide: every error, arrays, a member that is missing and
-- not added, a name that its text alone cannot find. Both ways must agree; the fuzzer compares them.
--
-- A script creates its functions again in every call, and each function costs as much as a search. So there are few.

-- Return where the value of the member `name` (a JSON string token) of the object from `open` to `close` starts; or nil, and
-- whether it is certain that there is no such member. COST: a few plain finds, see canonical.lua. Where the name is behind a
-- brace inside of the object, what is on one side of it is copied twice and matched.
local function find_member(text, open, name, close)
  local find, sub = string.find, string.sub
  local needle = sub(name, 2) .. ":"
  local found = find(text, needle, open + 2, true)
  local inner = found and find(text, "{", open + 1, true) or close
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
    end
    found = find(text, needle, found + 1, true)
  end
end

-- Follow the `depth` segments of the path behind `cursor` through objects; the JSON ends at `ending`. Return where the value of
-- the last one starts; or nil, and if only that one is missing: the last byte of its object, and what must come before a value
-- that is added there.
local function follow(text, ending, arguments, cursor, depth)
  local find = string.find
  local start, close = 1, ending
  for level = 1, depth do
    local open, name = start, arguments[cursor + level]
    if level > 1 then
      local _
      _, close = find(text, "^%b{}", open)
    end
    -- A closing quote is followed by one of , : } ] or the mark. Only a name that starts otherwise can be found by its text
    -- alone.
    if not close or #name > 64 or string.byte(text, open) ~= 123 or not find(name, '^"[^,:}%]\t"]') then
      return nil
    end
    local found, is_missing = find_member(text, open, name, close)
    if not found then
      return nil, is_missing and level == depth and close, (close == open + 1 and "" or ",") .. name .. ":"
    end
    start = found
  end
  return start
end

-- Return the last byte of the integer at `first`, and its sum with the integer `amount`; or nil, if these are not two integers of
-- at most 15 digits: a double holds those, and their sum, exactly.
local function add(text, first, amount)
  local find = string.find
  local _, after = find(text, "^%-?%d+[,}\t]", first)
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
  local first, close, before = follow(text, ending, arguments, cursor, depth)
  local last, _
  if first and operation == "increment" then
    last, value = add(text, first, value)
  elseif first then
    local kind = string.byte(text, first)
    local pattern = kind == 34 and '^%b""' or kind == 123 and "^%b{}" or kind == 91 and "^%b[]" or "^[%w+.%-]+"
    _, last = string.find(text, pattern, first)
  elseif close and may_add then
    first, last, value = close, close - 1, before .. value
  end
  return last and sub(text, 1, first - 1) .. value .. sub(text, last + 1), first, last
end

return direct
