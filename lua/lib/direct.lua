-- The short way of an update: one operation that replaces, adds or increments a member of an object in a small canonical
-- document. It returns nothing where the long way (patch.lua) must decide: every error, arrays, a member that is missing and
-- not added, a name that its text alone cannot find. Both ways must agree; the fuzzer compares them.
--
-- A script creates its functions again in every call, and each variable around a function that it uses costs as much as a call.
-- So these functions use few.

-- Return where the value of the member `name` (a JSON string token) of the object from `open` to `close` starts; or nil, and
-- whether it is certain that there is no such member. COST: see canonical.lua, which also explains the search.
local function find_member(text, open, name, close)
  local find, nowhere = string.find, math.huge
  local needle = string.sub(name, 2) .. ":"
  local pos = open + 1 -- in no container inside of the object
  local found = find(text, needle, pos + 1, true)
  local object, array = find(text, "{", pos, true) or nowhere, find(text, "[", pos, true) or nowhere
  for _ = 1, 64 do
    if not found or found > close then
      return nil, true
    elseif string.byte(text, found - 1) ~= 34 then -- the end of another name
      found = find(text, needle, found + 1, true)
    elseif object > found and array > found then
      return found + #needle
    elseif close - found < found - pos and find("{" .. string.sub(text, found - 1, close), "^%b{}$") then
      return found + #needle -- the brackets behind the name balance up to the end of the object
    else
      local _, last = find(text, object < array and "^%b{}" or "^%b[]", object < array and object or array)
      if not last then
        return nil
      end
      pos = last + 1
      object = object < pos and (find(text, "{", pos, true) or nowhere) or object
      array = array < pos and (find(text, "[", pos, true) or nowhere) or array
      if found < pos then
        found = find(text, needle, pos + 1, true)
      end
    end
  end
  return nil
end

-- Return the last byte of the value that starts at `start`.
local function value_end(text, start)
  local first, find = string.byte(text, start), string.find
  local last, _
  if first == 34 then
    last = find(text, '"', start + 1, true)
  elseif first == 123 then
    _, last = find(text, "^%b{}", start)
  elseif first == 91 then
    _, last = find(text, "^%b[]", start)
  else
    _, last = find(text, "^[%w+.%-]+", start)
  end
  return last
end

-- Return the first and the last byte of the member's value that the path at `cursor` names. If there is no such member, but its
-- object, and `may_add`: return the empty place before the end of the object, and what comes before the new value. Otherwise
-- nil.
local function find_place(text, ending, arguments, cursor, depth, may_add)
  local byte, find = string.byte, string.find
  local start, close = 1, ending
  for level = 1, depth do
    local open, name = start, arguments[cursor + level]
    if level > 1 then
      local _
      _, close = find(text, "^%b{}", open)
    end
    -- A closing quote is followed by one of , : } ] or the mark. Only a name that starts otherwise can be found by its text
    -- alone.
    if not close or byte(text, open) ~= 123 or #name > 64 or not find(name, '^"[^,:}%]\t"]') then
      return nil
    end
    local found, is_missing = find_member(text, open, name, close)
    if is_missing and may_add and level == depth then
      return close, close - 1, (close == open + 1 and "" or ",") .. name .. ":"
    elseif not found then
      return nil
    end
    start = found
  end
  return start, value_end(text, start)
end

-- Return the sum of the integer at `first` to `last` and the integer `amount`, if a double can hold both exactly; or nil.
local function add(text, first, last, amount)
  local find, number = string.find, string.sub(text, first, last)
  if #number < 16 and #amount < 16 and find(number, "^%-?%d+$") and find(amount, "^%-?%d+$") then
    return string.format("%d", number + amount)
  end
end

-- Return the new text, and the first and the last byte of the old one that it replaces; or nil. The JSON in `text` ends at
-- `ending`. `arguments` has the number of operations at `cursor`, and then the operations, as in the header of mutate.lua.
-- COST: a few searches and matches, each at most the bytes of the text, and two copies of the text.
local function direct(text, ending, arguments, cursor)
  local sub = string.sub
  local operation, depth = arguments[cursor + 1], tonumber(arguments[cursor + 2])
  local may_add = operation == "set" or operation == "add"
  local is_known = may_add or operation == "replace" or operation == "increment"
  if arguments[cursor] ~= "1" or not is_known or depth < 1 or depth > 4 or #text > 32768 or sub(text, -3) ~= "\t\r\t" then
    return nil
  end
  local value = arguments[cursor + depth + 3]
  local first, last, before = find_place(text, ending, arguments, cursor + 2, depth, may_add)
  if not last then
    return nil
  elseif before then
    value = before .. value
  elseif operation == "increment" then
    value = add(text, first, last, value)
    if not value then
      return nil
    end
  end
  return sub(text, 1, first - 1) .. value .. sub(text, last + 1), first, last
end

return direct
