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

-- Plan an update by the patch engine. `largest` is the size of the text that the result may have.
local function plan_patch(old, arguments, cursor, request, largest, is_strict)
  local patch = require("lib.patch")
  local document = patch.new_document(old or "{}" .. MARK, request)
  local done, failure = pcall(patch.apply, document, arguments, cursor, is_strict)
  if not done then
    if type(failure) ~= "table" then
      error(failure, 0)
    end
    return "answer", { err = failure.code .. " " .. document.operation .. " " .. failure.detail }
  end
  local text = document.text
  if old and not document.changed then
    return "unchanged"
  elseif #text > largest then
    return "answer", { err = "TOOLARGE " .. #text - #MARK }
  elseif not old then
    return "write", text, text, "new", text
  end
  return "write", require("lib.event_fields")(old, text, document.prefix + 1, #old - document.suffix)
end

local planners = {}

function planners.set(_, _, old, arguments, cursor)
  local text = arguments[cursor]
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

-- `arguments` has the largest size of the result at `cursor`, then the operations. COST: see direct.lua and patch.lua.
function planners.update(request, is_strict, old, arguments, cursor)
  local largest = arguments[cursor] + #MARK
  if old then
    local text, first, last = require("lib.direct")(old, arguments, cursor + 1)
    if text and #text <= largest then
      return "write", require("lib.event_fields")(old, text, first, last)
    end
  end
  return plan_patch(old, arguments, cursor + 1, request, largest, is_strict)
end

-- Plan the change of `key`, which holds `old` (false = no value). `kind`, `expected` and, from `cursor` on, the parameters of the
-- kind in `arguments` are those in the header of mutate.lua.
local function plan(server, revisions, key, request, kind, expected, old, arguments, cursor)
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
  return planners[is_strict and "update" or kind](request, is_strict, old, arguments, cursor)
end

return plan
