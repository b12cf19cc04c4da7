-- Applies update operations to a JSON text by splicing: finds the bytes that a path names and replaces only those.
--
-- A document has the text, the first and last byte of its value, how many bytes at both ends (prefix, suffix) no splice touched,
-- the cost so far, and a parser: canonical.lua, or that of noncanonical.lua. A path is a list of JSON string tokens, a value is
-- JSON text; both are canonical JSON. A failing operation raises {code, detail}. Nothing outside the document changes.
--
-- Costs are nanoseconds of the slowest server and text that were measured. All parts add what they do to the cost of the
-- document, before or right after each step that takes at most a few milliseconds. Over BUDGET the call fails with TOOMUCH.
-- `tests/fuzzing/costs.py` searches for updates that take longer than they cost.
--
-- A script creates its functions again in every call. So this part has what most updates need. The other parts are created when
-- an operation needs them.

local canonical = require("lib.canonical")

local byte, find, format = string.byte, string.find, string.format
local match, sub = string.match, string.sub

local MARK = "\t\r\t"
local ARRAY, OBJECT = 91, 123
local BUDGET = 33000000 -- less than the 50 ms that a call may take: other processes slow the server down
local FIXED = 3 -- cost of each byte of the text outside of this part: HGET, HSET, XADD and the reply
local REPLACED = 3 -- cost of each byte of the old text that the event carries
local ARGUMENT = 200 -- cost of each argument of the script
local OPERATION, LEVEL = 8000, 2500 -- cost of each operation, and of each segment of a path
local COPYING = 1.8 -- cost of each byte of a text that is made: Redis 8 hashes all of it
local QUICK = 512 * 1024 -- bytes that a call may search without an estimate of what that takes, see search.lua

local function fail(code, detail)
  error({ code = code, detail = detail }, 0)
end

-- Raise when the cost, with what is to come, is over the budget.
local function check(document, cost)
  if document.cost + cost > BUDGET then
    fail("TOOMUCH", document.parser.find_element and "non-canonical" or "work")
  end
end

-- Add to the cost. Raises when it is over the budget.
local function spend(document, cost)
  document.cost = document.cost + cost
  check(document, 0)
end

-- Replace bytes first..last. COST: copies the bytes that stay twice, and the others once.
local function splice(document, first, last, replacement)
  local text = document.text
  local staying = #text - (last - first + 1)
  spend(document, COPYING * (2 * staying + #replacement))
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

-- Follow the first `depth` segments of a path. Return where that value begins, and, where known, the last byte of the container
-- around it and its own last byte. Return nil when there is no such value.
local function follow(document, path, depth)
  local start, around, close = document.first, nil, document.last
  for level = 1, depth do
    spend(document, LEVEL)
    local kind = byte(document.text, start)
    if kind == OBJECT then
      local _
      _, start = document.parser.find_member(document, start, path[level], close)
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
  local last = document.parser.value_end(document, start)
  if not last then
    fail("CORRUPT", "the text is not the canonical JSON that its mark promises")
  end
  return last
end

-- Add to a number. Small integers, the most frequent case, are added here; number.lua adds the others.
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

-- Return a document. Canonical JSON ends at `last`. `request` is the id of the request.
local function new_document(text, last, request)
  local seed = 1
  for index = 1, #request do
    seed = (seed * 31 + byte(request, index)) % 2147483647
  end
  return {
    text = text, first = 1, last = last, prefix = #text, suffix = #text, changed = false,
    operation = -1, cost = 0, quick = QUICK, parser = canonical,
    seed = math.max(seed, 1), fail = fail, check = check, spend = spend, splice = splice, follow = follow, value_end = value_end,
  }
end

-- Apply the operations in `arguments` from `cursor` on (as in the header of mutate.lua) to `document`. `document.operation` is
-- the index (from 0) of the operation that is being applied.
-- COST: per operation, a search and a copy of the text; see canonical.lua, scan_items.lua and noncanonical.lua.
local function apply(document, arguments, cursor, strict)
  local text, bytes = document.text, 0
  for index = cursor, #arguments do
    bytes = bytes + #arguments[index]
  end
  spend(document, FIXED * #text + ARGUMENT * #arguments + COPYING * bytes)
  if sub(text, -#MARK) ~= MARK then
    document.parser = require("lib.noncanonical").parser
    document.first, document.last = document.parser.check(document)
  end
  while cursor <= #arguments do
    document.operation = document.operation + 1
    spend(document, OPERATION)
    local name, segments = match(arguments[cursor], "^(%a+) ?(%d*)$")
    local path, depth = {}, tonumber(segments) or 1
    for level = 1, depth do
      path[level] = arguments[cursor + level]
    end
    cursor = cursor + depth + 1
    if name == "increment" then
      increment(document, path, arguments[cursor], strict)
      cursor = cursor + 1
    else
      cursor = require("lib.operations").apply(document, name, path, arguments, cursor, strict)
    end
  end
  if document.changed then
    local replaced = #text - document.prefix - document.suffix
    spend(document, REPLACED * replaced + FIXED * math.max(0, #document.text - #text))
  end
end

return { apply = apply, new_document = new_document }
