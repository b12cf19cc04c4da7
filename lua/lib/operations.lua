-- The operations of an update, except increment (see patch.lua). Each takes a document and {path, value or from or members}.

local container = require("lib.container")

local byte, find, sub = string.byte, string.find, string.sub

local ARRAY, QUOTE, OBJECT = 91, 34, 123
local DEPTH = 1000 -- deeper documents cannot be read back by get()
local COPYING = 1.8 -- cost of each byte of a text that is made, see patch.lua
local MEMBER = 4000 -- cost of a member of a merge
local BRACKET, BRACKET_IN_RUN = 1000, 20 -- cost of a run of brackets, and of each bracket in it, see patch.lua
local NOWHERE = math.huge

-- Return the text of the value at a path, and where it starts; or nil.
local function read(document, path)
  local start = document.follow(document, path, #path)
  if start then
    local last = #path == 0 and document.last or document.value_end(document, start)
    document.spend(document, COPYING * (last - start))
    return sub(document.text, start, last), start
  end
  return nil
end

-- Return the first bracket of a canonical text from `pos` on; or nil. `nearest` has the next one of each kind, as far as known.
local function next_bracket(value, pos, nearest)
  local first = NOWHERE
  for bracket, at in pairs(nearest) do
    if at < pos then
      at = find(value, bracket, pos, true) or NOWHERE
      nearest[bracket] = at
    end
    first = math.min(first, at)
  end
  return first < NOWHERE and first or nil
end

-- Return the depth of the value at `start`. COST: plain finds over its bytes, and a step per run of brackets.
local function depth_of(document, value, start)
  if document.parser.depth then
    return document.parser.depth(document, start)
  end
  local depth, deepest, nearest = 0, 0, { ["{"] = 0, ["["] = 0, ["}"] = 0, ["]"] = 0 }
  document.spend(document, #value)
  local first = next_bracket(value, 1, nearest)
  while first do
    local _, opened = find(value, "^[%[{]+", first)
    local last = opened or select(2, find(value, "^[%]}]+", first))
    document.spend(document, BRACKET + BRACKET_IN_RUN * (last - first))
    depth = depth + (opened and last - first + 1 or first - last - 1)
    deepest = math.max(depth, deepest)
    first = next_bracket(value, last + 1, nearest)
  end
  return deepest
end

-- Return the value at `from`. Raises when there is none, or when it would be nested too deep at `path`.
-- COST: its bytes, and its depth if it is large enough to be too deep.
local function read_source(document, operation)
  local value, start = read(document, operation.from)
  if not value then
    document.fail("PATHMISSING", "from")
  end
  local may_be_too_deep = #operation.path > #operation.from and #value / 2 + #operation.path > DEPTH
  if may_be_too_deep and depth_of(document, value, start) + #operation.path > DEPTH then
    document.fail("TOODEEP", "result")
  end
  return value
end

-- Return whether the value at `start` may end at `last`, if the bytes between them are JSON: a number may go on.
local function ends_at(document, start, last)
  return not find(document.text, "^[%d-]", start) or not find(document.text, "^[%d.eE+-]", last + 1)
end

local operations = {}

function operations.add(document, operation)
  container.put(document, operation.path, operation.value, true)
end

function operations.set(document, operation)
  container.put(document, operation.path, operation.value, false)
end

function operations.replace(document, operation)
  local text, start = read(document, operation.path)
  if not text then
    container.create(document, operation.path, operation.value, true)
  end
  document.splice(document, start, start + #text - 1, operation.value)
end

function operations.remove(document, operation)
  container.remove(document, operation.path, true)
end

function operations.discard(document, operation)
  container.remove(document, operation.path, false)
end

function operations.move(document, operation)
  local value = read_source(document, operation)
  -- A move onto itself must change nothing; removing the member first would lose its position.
  if table.concat(operation.from, "/") ~= table.concat(operation.path, "/") then
    container.remove(document, operation.from, true)
    container.put(document, operation.path, value, true)
  end
end

function operations.copy(document, operation)
  container.put(document, operation.path, read_source(document, operation), true)
end

function operations.test(document, operation)
  local path, value = operation.path, operation.value
  local start = document.follow(document, path, #path)
  if not start then
    container.create(document, path, value, true)
  end
  -- Most tests pass, and most texts then are the same.
  local same = false
  local last = start + #value - 1
  if last <= document.last then
    document.spend(document, COPYING * #value)
    same = sub(document.text, start, last) == value and ends_at(document, start, last)
  end
  if not same and not require("lib.equal").equal(document, start, value) then
    document.fail("TESTFAILED", "other value")
  end
end

function operations.append(document, operation, strict)
  local value = operation.value
  local text, start = read(document, operation.path)
  local kind = text and byte(text)
  if not text then
    container.create(document, operation.path, "[" .. value .. "]", strict)
  elseif kind == ARRAY then
    container.append_item(document, start, value, nil, start + #text - 1)
  elseif kind == QUOTE and byte(value) == QUOTE then
    document.splice(document, start + #text - 1, start + #text - 1, sub(value, 2))
  else
    document.fail("WRONGKIND", kind == QUOTE and "text" or "array or text")
  end
end

function operations.merge(document, operation, strict)
  local text, start = read(document, operation.path)
  if not text then
    container.create(document, operation.path, operation.value, strict)
    return
  elseif byte(text) ~= OBJECT then
    document.fail("WRONGKIND", "object")
  end
  for _, member in ipairs(operation.members) do
    local value = container.child(document, start, member.name)
    if value then
      document.splice(document, value, document.value_end(document, value), member.value)
    else
      container.append_item(document, start, member.name .. ":" .. member.value)
    end
  end
end

-- Read the parameters of the operation `name` from `arguments`, apply it, and return the cursor after them. COST: see patch.lua.
local function apply(document, name, path, arguments, cursor, strict)
  local operation = { path = path }
  if name == "move" or name == "copy" then
    local from, depth = {}, tonumber(arguments[cursor])
    for level = 1, depth do
      from[level] = arguments[cursor + level]
    end
    operation.from, cursor = from, cursor + depth + 1
  elseif name ~= "remove" and name ~= "discard" then
    operation.value, cursor = arguments[cursor], cursor + 1
  end
  if name == "merge" then
    local members, count = {}, tonumber(arguments[cursor])
    document.spend(document, MEMBER * count)
    for member = 1, count do
      members[member] = { name = arguments[cursor + 2 * member - 1], value = arguments[cursor + 2 * member] }
    end
    operation.members, cursor = members, cursor + 2 * count + 1
  end
  operations[name](document, operation, strict)
  return cursor
end

return { apply = apply }
