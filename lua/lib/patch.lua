-- Applies update operations to a JSON text by splicing: finds the bytes a path names and replaces just those.
--
-- An operation is {name, path, from, value}: paths are lists of JSON string tokens, values are JSON text, both spelled the way
-- sealed text spells them. A failing operation raises {code, detail} through `fail`; nothing outside of the document is touched.

local number = require("lib.number")
local sealed = require("lib.sealed")

local byte, find, match, sub = string.byte, string.find, string.match, string.sub

local SEAL = "\t\r\t"
local ARRAY, OBJECT, COMMA = 91, 123, 44
local BLANK = "^[ \t\r\n]"
local MOVED = 64 * 1024 * 1024 -- bytes that the splices of one call may copy

local function fail(code, detail)
  error({ code = code, detail = detail }, 0)
end

-- A document: its text, the first and last byte of its value, its navigator, and how many bytes at both ends no splice touched.
local function open_document(text)
  local document = { text = text, first = 1, last = #text - #SEAL, prefix = #text, suffix = #text, moved = 0, nav = sealed }
  if sub(text, -#SEAL) ~= SEAL then
    document.nav = require("lib.foreign").navigator(fail)
    document.first, document.last = document.nav.check(text)
  end
  return document
end

-- Replace bytes first..last. COST: copies the text.
local function splice(document, first, last, replacement)
  local text = document.text
  document.moved = document.moved + #text
  if document.moved > MOVED then
    fail("TOOMUCH", "bytes moved")
  end
  if first - 1 < document.prefix then
    document.prefix = first - 1
  end
  if #text - last < document.suffix then
    document.suffix = #text - last
  end
  document.text = sub(text, 1, first - 1) .. replacement .. sub(text, last + 1)
  document.last = document.last + #document.text - #text
end

local function must(position)
  if not position then
    fail("CORRUPT", "the text is not what its seal says")
  end
  return position
end

local function value_end(document, start)
  return must(document.nav.value_end(document.text, start))
end

-- The index that a path segment names, "-" for the end.
local function index_of(segment)
  if segment == '"-"' then
    return "-"
  end
  local digits = match(segment, '^"(%d+)"$')
  if not digits or (#digits > 1 and byte(digits) == 48) then
    fail("BADINDEX", "form")
  end
  return tonumber(digits)
end

-- The item `segment` of the container at `start`: where its value begins, and where the item (with its name) does. Nil when it is
-- not there, with the number of elements if `start` is an array. `close` is the end of the container where known.
local function child(document, start, segment, close)
  local text, kind = document.text, byte(document.text, start)
  if kind == OBJECT then
    local item, value = document.nav.find_member(text, start, segment, close)
    return value, item
  elseif kind == ARRAY then
    local index = index_of(segment)
    if index == "-" then
      fail("BADINDEX", "end")
    end
    local value, size = document.nav.find_element(text, start, index)
    return value, value or size
  end
  return nil
end

-- Follow the first `depth` segments of a path: where that value begins, and the end of the container around it and its own, where
-- known. Nil when it is not there.
local function follow(document, path, depth)
  local start, around, close = document.first, nil, document.last
  for level = 1, depth do
    start = child(document, start, path[level], close)
    if not start then
      return nil
    end
    around, close = close, nil
    if level > 1 then
      around = nil
    end
  end
  return start, around, close
end

-- The container that the last segment of a path points into; raises when it is not there, or is none.
local function parent_of(document, path)
  local start, around, close = follow(document, path, #path - 1)
  local kind = start and byte(document.text, start)
  if kind ~= OBJECT and kind ~= ARRAY then
    fail("PATHMISSING", "parent")
  end
  return start, around, close
end

-- Add an item (a member with its name, or an element) behind the last of the container at `start`.
local function append_item(document, start, item, around, close)
  local text = document.text
  close = close or must(document.nav.container_end(text, start, around))
  local last = close - 1
  while find(text, BLANK, last) do
    last = last - 1
  end
  splice(document, last + 1, last, last == start and item or "," .. item)
end

-- Remove the item whose first byte is `item` and whose value starts at `value`, with one comma beside it.
local function remove_item(document, item, value)
  local text, last = document.text, value_end(document, value)
  local after = find(text, "[^ \t\r\n]", last + 1)
  if byte(text, after) == COMMA then
    splice(document, item, find(text, "[^ \t\r\n]", after + 1) - 1, "")
    return
  end
  local before = item - 1
  while find(text, BLANK, before) do
    before = before - 1
  end
  splice(document, byte(text, before) == COMMA and before or item, last, "")
end

local function replace_value(document, start, value)
  splice(document, start, value_end(document, start), value)
end

-- The text of the value at a path, or nil.
local function read(document, path)
  local start = follow(document, path, #path)
  if not start then
    return nil
  end
  return sub(document.text, start, #path == 0 and document.last or value_end(document, start)), start
end

-- Put a value at a path: into a new or existing member, over the whole document, or, in an array, `insert`ed before the element
-- or over it.
local function put(document, path, value, insert)
  if #path == 0 then
    splice(document, document.first, document.last, value)
    return
  end
  local start, around, close = parent_of(document, path)
  local segment = path[#path]
  if byte(document.text, start) == OBJECT then
    local found = child(document, start, segment, close)
    if found then
      replace_value(document, found, value)
    else
      append_item(document, start, segment .. ":" .. value, around, close)
    end
    return
  end
  local index = index_of(segment)
  if insert and index == "-" then
    append_item(document, start, value, around, close)
    return
  end
  local found, size = child(document, start, segment, close)
  if found and insert then
    splice(document, found, found - 1, value .. ",")
  elseif found then
    replace_value(document, found, value)
  elseif insert and index == size then
    append_item(document, start, value, around, close)
  else
    fail("BADINDEX", "range")
  end
end

-- Remove what is at a path; `must_exist` tells what to do when an object has no such member.
local function remove(document, path, must_exist)
  local start, _, close = parent_of(document, path)
  local value, item = child(document, start, path[#path], close)
  if value then
    remove_item(document, item, value)
  elseif byte(document.text, start) == ARRAY then
    fail("BADINDEX", "range")
  elseif must_exist then
    fail("PATHMISSING", "target")
  end
end

-- Raise for a path that leads nowhere, in the words of what its parent is.
local function fail_missing(document, path)
  local start = parent_of(document, path)
  if byte(document.text, start) == ARRAY then
    fail("BADINDEX", "range")
  end
  fail("PATHMISSING", "target")
end

-- The text at the path, and where it starts. When there is none: raises in strict mode, or inside of an array; else puts
-- `default` there and returns nil.
local function read_or_put(document, path, default, strict)
  local text, start = read(document, path)
  if text then
    return text, start
  end
  if strict then
    fail_missing(document, path)
  end
  put(document, path, default, false)
  return nil
end

local operations = {}

function operations.add(document, operation)
  put(document, operation.path, operation.value, true)
end

function operations.set(document, operation)
  put(document, operation.path, operation.value, false)
end

function operations.replace(document, operation)
  local text, start = read(document, operation.path)
  if not text then
    fail_missing(document, operation.path)
  end
  splice(document, start, start + #text - 1, operation.value)
end

function operations.remove(document, operation)
  remove(document, operation.path, true)
end

function operations.discard(document, operation)
  remove(document, operation.path, false)
end

function operations.move(document, operation)
  local value = read(document, operation.from)
  if not value then
    fail("PATHMISSING", "from")
  end
  -- A move onto itself changes nothing; removing first would lose the member's place.
  if table.concat(operation.from, "/") ~= table.concat(operation.path, "/") then
    remove(document, operation.from, true)
    put(document, operation.path, value, true)
  end
end

function operations.copy(document, operation)
  local value = read(document, operation.from)
  if not value then
    fail("PATHMISSING", "from")
  end
  put(document, operation.path, value, true)
end

function operations.test(document, operation)
  local value = read(document, operation.path)
  if not value then
    fail_missing(document, operation.path)
  end
  if value ~= operation.value and not require("lib.equal").equal(value, operation.value) then
    fail("TESTFAILED", "other value")
  end
end

function operations.increment(document, operation, strict)
  local text, start = read_or_put(document, operation.path, operation.value, strict)
  if not text then
    return
  end
  if not find(text, "^[%d-]") then
    fail("WRONGKIND", "number")
  end
  local sum, reason = number.add(text, operation.value)
  if not sum then
    fail("OVERFLOW", reason)
  end
  splice(document, start, start + #text - 1, sum)
end

function operations.append(document, operation, strict)
  local text, start = read_or_put(document, operation.path, "[" .. operation.value .. "]", strict)
  local kind = text and byte(text)
  if kind == ARRAY then
    append_item(document, start, operation.value, nil, start + #text - 1)
  elseif kind == 34 and byte(operation.value) == 34 then
    splice(document, start + #text - 1, start + #text - 1, sub(operation.value, 2))
  elseif kind then
    fail("WRONGKIND", kind == 34 and "text" or "array or text")
  end
end

function operations.merge(document, operation, strict)
  local text, start = read_or_put(document, operation.path, operation.value, strict)
  if not text then
    return
  end
  if byte(text) ~= OBJECT then
    fail("WRONGKIND", "object")
  end
  for _, member in ipairs(operation.members) do
    local value = child(document, start, member.name)
    if value then
      replace_value(document, value, member.value)
    else
      append_item(document, start, member.name .. ":" .. member.value)
    end
  end
end

-- Apply a list of operations: the document after. Raises {code, detail, operation} for the first that fails.
-- COST: per operation, finding its place and a copy of the text; see sealed.lua and foreign.lua.
local function apply(text, list, strict)
  local document = open_document(text)
  for index, operation in ipairs(list) do
    local done, failure = pcall(operations[operation.name], document, operation, strict)
    if not done then
      if type(failure) == "table" then
        failure.operation = index - 1
      end
      error(failure, 0)
    end
  end
  return document
end

return { apply = apply, SEAL = SEAL }
