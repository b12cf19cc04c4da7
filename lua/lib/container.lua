-- Reads and changes the items of objects and arrays in a document (see patch.lua).

local byte, find, match = string.byte, string.find, string.match

local ARRAY, OBJECT, COMMA = 91, 123, 44
local BLANK, SOLID = "^[ \t\r\n]", "[^ \t\r\n]"

-- The index that a path segment names, "-" for the end.
local function index_of(document, segment)
  if segment == '"-"' then
    return "-"
  end
  local digits = match(segment, '^"(%d+)"$')
  if not digits or (#digits > 1 and byte(digits) == 48) then
    document.fail("BADINDEX", "form")
  end
  return tonumber(digits)
end

-- The functions of walk.lua, or those of foreign.lua that stand for them.
local function walker(document)
  return document.nav.find_element and document.nav or require("lib.walk")
end

-- The start of the element that `segment` names in the array at `start`; or nil and the number of elements.
local function element(document, start, segment)
  local index = index_of(document, segment)
  if index == "-" then
    document.fail("BADINDEX", "end")
  end
  return walker(document).find_element(document, start, index)
end

-- The item `segment` of the container at `start`: where its value begins, and where the item (with its name) does. Nil when it is
-- not there, with the number of elements if `start` is an array. `close` is the end of the container where known.
local function child(document, start, segment, close)
  if byte(document.text, start) == OBJECT then
    local item, value = document.nav.find_member(document, start, segment, close)
    return value, item
  end
  local value, size = element(document, start, segment)
  return value, value or size
end

-- The container that the last segment of a path points into; raises when it is not there, or is none.
local function parent_of(document, path)
  local start, around, close = document.follow(document, path, #path - 1)
  local kind = start and byte(document.text, start)
  if kind ~= OBJECT and kind ~= ARRAY then
    document.fail("PATHMISSING", "parent")
  end
  return start, around, close
end

-- Add an item (a member with its name, or an element) behind the last of the container at `start`.
local function append_item(document, start, item, around, close)
  local text = document.text
  close = close or walker(document).container_end(document, start, around)
  if not close then
    document.fail("CORRUPT", "the text is not what its seal says")
  end
  local last = close - 1
  while find(text, BLANK, last) do
    last = last - 1
  end
  document.splice(document, last + 1, last, last == start and item or "," .. item)
end

-- Remove the item whose first byte is `item` and whose value starts at `value`, with one comma beside it.
local function remove_item(document, item, value)
  local text, last = document.text, document.value_end(document, value)
  local after = find(text, SOLID, last + 1)
  if byte(text, after) == COMMA then
    document.splice(document, item, find(text, SOLID, after + 1) - 1, "")
    return
  end
  local before = item - 1
  while find(text, BLANK, before) do
    before = before - 1
  end
  document.splice(document, byte(text, before) == COMMA and before or item, last, "")
end

-- Put a value at a path: into a new or existing member, over the whole document, or, in an array, `insert`ed before the element
-- or over it.
local function put(document, path, value, insert)
  if #path == 0 then
    document.splice(document, document.first, document.last, value)
    return
  end
  local start, around, close = parent_of(document, path)
  local segment = path[#path]
  if byte(document.text, start) == OBJECT then
    local found = child(document, start, segment, close)
    if found then
      document.splice(document, found, document.value_end(document, found), value)
    else
      append_item(document, start, segment .. ":" .. value, around, close)
    end
    return
  end
  local index = index_of(document, segment)
  if insert and index == "-" then
    append_item(document, start, value, around, close)
    return
  end
  local found, size = child(document, start, segment, close)
  if found and insert then
    document.splice(document, found, found - 1, value .. ",")
  elseif found then
    document.splice(document, found, document.value_end(document, found), value)
  elseif insert and index == size then
    append_item(document, start, value, around, close)
  else
    document.fail("BADINDEX", "range")
  end
end

-- Remove what is at a path; `must_exist` tells what to do when an object has no such member.
local function remove(document, path, must_exist)
  local start, _, close = parent_of(document, path)
  local value, item = child(document, start, path[#path], close)
  if value then
    remove_item(document, item, value)
  elseif byte(document.text, start) == ARRAY then
    document.fail("BADINDEX", "range")
  elseif must_exist then
    document.fail("PATHMISSING", "target")
  end
end

-- Put a value where there is none; in strict mode, and inside of an array, that is an error.
local function create(document, path, value, strict)
  local start, around, close = parent_of(document, path)
  if byte(document.text, start) == ARRAY then
    document.fail("BADINDEX", "range")
  elseif strict then
    document.fail("PATHMISSING", "target")
  end
  append_item(document, start, path[#path] .. ":" .. value, around, close)
end

return { element = element, child = child, append_item = append_item, put = put, remove = remove, create = create }
