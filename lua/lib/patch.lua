-- Applies update operations to a JSON text by splicing: finds the bytes a path names and replaces just those.
--
-- A document has the text, the first and last byte of its value, how many bytes at both ends (prefix, suffix) no splice touched,
-- the work done so far and its budget (in bytes moved), and a navigator that finds the way. Paths are lists of JSON string
-- tokens, values JSON text, both spelled the way sealed text spells them. A failing operation raises {code, detail}; nothing
-- outside of the document is touched.
--
-- A script makes its functions anew at every call, so what most updates need stands here, and the rest in parts that are made
-- when an operation comes to them.

local sealed = require("lib.sealed")

local byte, find, format, sub = string.byte, string.find, string.format, string.sub

local SEAL = "\t\r\t"
local ARRAY, OBJECT = 91, 123
local BUDGET = 64 * 1024 * 1024

local function fail(code, detail)
  error({ code = code, detail = detail }, 0)
end

-- Replace bytes first..last. COST: copies the text.
local function splice(document, first, last, replacement)
  local text = document.text
  document.work = document.work + #text
  if document.work > document.budget then
    fail("TOOMUCH", "bytes moved")
  end
  if first - 1 < document.prefix then
    document.prefix = first - 1
  end
  if #text - last < document.suffix then
    document.suffix = #text - last
  end
  document.changed = true
  document.text = sub(text, 1, first - 1) .. replacement .. sub(text, last + 1)
  document.last = document.last + #document.text - #text
end

-- Follow the first `depth` segments of a path: where that value begins, and the last byte of the container around it and its own,
-- where known. Nil when it is not there.
local function follow(document, path, depth)
  local start, around, close = document.first, nil, document.last
  for level = 1, depth do
    local kind = byte(document.text, start)
    if kind == OBJECT then
      local _
      _, start = document.nav.find_member(document, start, path[level], close)
    elseif kind == ARRAY then
      start = require("lib.container").element(document, start, path[level])
    else
      return nil
    end
    if not start then
      return nil
    end
    around, close = level == 1 and close or nil, nil
  end
  return start, around, close
end

local function value_end(document, start)
  local last = document.nav.value_end(document, start)
  if not last then
    fail("CORRUPT", "the text is not what its seal says")
  end
  return last
end

-- Add to a number. Small integers, the most usual, are added here; the rest needs more care.
local function increment(document, path, amount, strict)
  local start = follow(document, path, #path)
  if not start then
    require("lib.container").create(document, path, require("lib.number").checked_add("0", amount), strict)
    return
  end
  local last = value_end(document, start)
  local number, sum = sub(document.text, start, last), nil
  if #number < 16 and #amount < 16 and find(number, "^%-?%d+$") and find(amount, "^%-?%d+$") then
    sum = format("%.0f", number + amount + 0) -- "+ 0" turns -0 into 0
  elseif find(number, "^[%d-]") then
    sum = require("lib.number").checked_add(number, amount)
  else
    fail("WRONGKIND", "number")
  end
  splice(document, start, last, sum)
end

local function new_document(text)
  return {
    text = text, first = 1, last = #text - #SEAL, prefix = #text, suffix = #text, changed = false,
    operation = 0, work = 0, budget = BUDGET, nav = sealed,
    fail = fail, splice = splice, follow = follow, value_end = value_end,
  }
end

-- Apply the operations that stand in `arguments` from `cursor` on (their number first, then as in mutate.lua's header) to
-- `document`, which knows by `document.operation` which one it is at (from 0).
-- COST: per operation, finding its place and a copy of the text; see sealed.lua, walk.lua and foreign.lua.
local function apply(document, arguments, cursor, strict)
  local text, count = document.text, tonumber(arguments[cursor])
  if sub(text, -#SEAL) ~= SEAL then
    document.nav = require("lib.foreign").navigator(fail)
    document.first, document.last = document.nav.check(text)
  end
  cursor = cursor + 1
  for index = 1, count do
    document.operation = index - 1
    local name, path, depth = arguments[cursor], {}, tonumber(arguments[cursor + 1])
    cursor = cursor + 2
    for level = 1, depth do
      path[level], cursor = arguments[cursor], cursor + 1
    end
    if name == "increment" then
      increment(document, path, arguments[cursor], strict)
      cursor = cursor + 1
    else
      cursor = require("lib.operations").apply(document, name, path, arguments, cursor, strict)
    end
  end
end

return { apply = apply, new_document = new_document }
