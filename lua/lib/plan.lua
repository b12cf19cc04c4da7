-- Plans one change: checks it and computes the new text. Nothing is written, so that all changes of a call can be planned before
-- the first one is written.
--
-- A plan is an action and what belongs to it:
--   "answer"     the reply of a change that cannot be made, or that has nothing to change
--   "unchanged"  nothing: the operations leave the value as it is
--   "delete"     the text to return, if any
--   "write"      the new text, the text to return, and the fields of the event, as lib/write.lua takes them
-- Several values cost less than a table.

local MARK = "\t\r\t" -- ends every text that this package writes; see codec.py

-- Return the plan that puts `text` in the place of `old`, of which only the bytes `first` to `last` were replaced. `behind` bytes
-- follow the JSON in both; `tail` is what shall follow it instead, nil = the same.
local function replace(old, text, first, last, behind, tail)
  if tail then
    text, first, last = string.sub(text, 1, #text - behind) .. tail, math.min(first, #old - behind + 1), #old
  end
  return "write", require("lib.event_fields")(old, text, first, last)
end

-- Plan an update by the patch engine. `behind` bytes follow the JSON; `largest` is the size of the text that the result may have.
local function plan_patch(old, ending, behind, tail, arguments, cursor, request, largest, is_strict, budget)
  local patch = require("lib.patch")
  local document = patch.new_document(old or "{}" .. MARK, ending or 2, request)
  document.cost = budget and budget.cost or 0
  local done, failure = pcall(patch.apply, document, arguments, cursor, is_strict)
  if not done then
    if type(failure) ~= "table" then
      error(failure, 0)
    end
    return "answer", { err = failure.code .. " " .. document.operation .. " " .. failure.detail }
  end
  if budget then
    budget.cost = document.cost
  end
  local text = document.text
  if old and not document.changed and not tail then
    return "unchanged"
  elseif #text > largest then
    return "answer", { err = "TOOLARGE " .. #text - behind }
  elseif not old then
    text = tail and string.sub(text, 1, -#MARK - 1) .. tail or text
    return "write", text, text, "new", text
  end
  return replace(old, text, document.prefix + 1, #old - document.suffix, behind, tail)
end

local planners = {}

function planners.set(_, _, old, _, tail, arguments, cursor)
  local text = tail and string.sub(arguments[cursor], 1, -#MARK - 1) .. tail or arguments[cursor]
  if old then
    return "write", text, nil, "new", text, "old", old
  end
  return "write", text, nil, "new", text
end

function planners.delete(_, _, old)
  if old then
    return "delete", old
  end
  return "answer", {}
end

function planners.drop(_, _, old)
  if old then
    return "delete"
  end
  return "answer", {}
end

-- Only what follows the JSON changes.
function planners.expire(_, _, old, ending, tail)
  if not old then
    return "answer", {}
  elseif not tail then
    return "unchanged"
  end
  local text, kept = string.sub(old, 1, ending) .. tail, ending .. ":0"
  if ending == #old then
    return "write", text, nil, "new", text, "kept", kept
  end
  return "write", text, nil, "new", text, "kept", kept, "old", string.sub(old, ending + 1)
end

-- `arguments` has the largest size of the result at `cursor`, then the operations. COST: see direct.lua and patch.lua.
function planners.update(request, is_strict, old, ending, tail, arguments, cursor, budget)
  local behind = old and #old - ending or #MARK
  local largest = arguments[cursor] + behind
  if old then
    local text, first, last = require("lib.direct")(old, ending, arguments, cursor + 1)
    if text and #text <= largest then
      return replace(old, text, first, last, behind, tail)
    end
  end
  return plan_patch(old, ending, behind, tail, arguments, cursor + 1, request, largest, is_strict, budget)
end

-- Plan the change of `key`, which holds `old` (false = no value), whose JSON ends at `ending`. `tail` is what shall follow the
-- JSON in the new text, nil = what `set` is given, or what follows it in `old`; see expiry.lua. `kind`, `expected` and, from
-- `cursor` on, the parameters of the kind in `arguments` are those in the header of mutate.lua. Where several updates share what
-- one may cost, `budget` has the `cost` of those before; see patch.lua.
local function plan(server, revisions, key, request, kind, expected, old, ending, tail, arguments, cursor, budget)
  if expected ~= "" then
    local actual = old and (server.call("HGET", revisions, key) or "0-0") or "none"
    if actual ~= expected then
      return "answer", { err = "CONFLICT " .. actual }
    end
  end
  local is_strict = kind == "strict update"
  if is_strict and not old then
    return "answer", { err = "KEYMISSING" }
  end
  return planners[is_strict and "update" or kind](request, is_strict, old, ending, tail, arguments, cursor, budget)
end

return plan
