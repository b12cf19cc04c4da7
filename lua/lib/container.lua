-- Reads and changes the items of objects and arrays in a document (see patch.lua).

local byte, find, match = string.byte, string.find, string.match

local ARRAY, OBJECT, COMMA = 91, 123, 44
local BLANK, SOLID = "^[ \t\r\n]", "[^ \t\r\n]"
local BLANK_STEP = 250 -- cost of stepping back over white space, see patch.lua

-- Return the index that a path segment names; "-" for the end.
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

-- Return the last byte before `pos` that is no white space. COST: a search per byte of white space.
local function solid_before(document, pos)
  local before = pos - 1
  while find(document.text, BLANK, before) do
    document.spend(document, BLANK_STEP)
    before = before - 1
  end
  return before
end

-- Return the first byte from `pos` on that is no white space. COST: its bytes.
local function solid_from(document, pos)
  local found = find(document.text, SOLID, pos)
  document.spend(document, 20 * (found - pos))
  return found
end

-- Return what has find_element and container_end for the document: its parser, or scan_items.lua for canonical JSON.
local function item_parser(document)
  return document.parser.find_element and document.parser or require("lib.scan_items")
end

-- Return the start of the element that `segment` names in the array at `start`; or nil and the number of elements.
local function element(document, start, segment)
  local index = index_of(document, segment)
  if index == "-" then
    document.fail("BADINDEX", "end")
  end
  return item_parser(document).find_element(document, start, index)
end

-- Return where the value of the item `segment` of the container at `start` begins, and where the item (with its name) does. If
-- there is no such item, return nil, and the number of elements of an array. `close` is the end of the container, if known.
local function child(document, start, segment, close)
  if byte(document.text, start) == OBJECT then
    local item, value = document.parser.find_member(document, start, segment, close)
    return value, item
  end
  local value, size = element(document, start, segment)
  return value, value or size
end

-- Return the container that the last segment of a path points into. Raises when there is none.
local function parent_of(document, path)
  local start, around, close = document.follow(document, path, #path - 1)
  local kind = start and byte(document.text, start)
  if kind ~= OBJECT and kind ~= ARRAY then
    document.fail("PATHMISSING", "parent")
  end
  return start, around, close
end

-- Add an item (a member with its name, or an element) after the last one of the container at `start`.
local function append_item(document, start, item, around, close)
  close = close or item_parser(document).container_end(document, start, around)
  if not close then
    document.fail("CORRUPT", "the text is not the canonical JSON that its mark promises")
  end
  local last = solid_before(document, close)
  document.splice(document, last + 1, last, last == start and item or "," .. item)
end

-- Remove the item whose first byte is `item` and whose value starts at `value`, with one adjacent comma.
local function remove_item(document, item, value)
  local text, last = document.text, document.value_end(document, value)
  local after = solid_from(document, last + 1)
  if byte(text, after) == COMMA then
    document.splice(document, item, solid_from(document, after + 1) - 1, "")
    return
  end
  local before = solid_before(document, item)
  document.splice(document, byte(text, before) == COMMA and before or item, last, "")
end

-- Put a value at a path: a new member, or in place of a member or of the whole document. In an array, `insert` puts it before the
-- element; otherwise it replaces the element.
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

-- Remove the value at a path. `must_exist`: raise when an object has no such member.
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

-- Add a member that does not exist yet. Raises in strict mode, and when the parent is an array.
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
