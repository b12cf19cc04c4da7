-- Plans one change: checks it and computes the new text. Nothing is written, so that all changes of a call can be planned
-- before the first one is written.
--
-- A planned change is what follows `old` in the arguments of write.lua: the new text (false = deleted), the text to return, and
-- the fields of the event. Several values cost less than a table.

local MARK = "\t\r\t" -- ends every text that this package writes; see codec.py

-- Plan an update: `arguments` has the largest size of the result at `cursor`, then the operations. Return like `plan`.
-- COST: see direct.lua and patch.lua.
local function plan_update(server, keys, key, old, arguments, cursor, is_strict)
  local direct, event_fields = require("lib.direct"), require("lib.event_fields")
  local largest = arguments[cursor] + #MARK
  if old then
    local text, first, last = direct(old, arguments, cursor + 1)
    if text and #text <= largest then
      return nil, event_fields(old, text, first, last)
    end
  end
  local patch = require("lib.patch")
  local document = patch.new_document(old or "{}" .. MARK, string.sub(keys[5], -16)) -- the request id
  local done, failure = pcall(patch.apply, document, arguments, cursor + 1, is_strict)
  if not done then
    if type(failure) ~= "table" then
      error(failure, 0)
    end
    return { err = failure.code .. " " .. document.operation .. " " .. failure.detail }
  end
  local text = document.text
  if old and not document.changed then
    return { server.call("HGET", keys[2], key) or "0-0", old }
  elseif #text > largest then
    return { err = "TOOLARGE " .. #text - #MARK }
  elseif not old then
    return nil, text, text, "new", text
  end
  return nil, event_fields(old, text, document.prefix + 1, #old - document.suffix)
end

-- Plan the change of `key`, which holds `old` (false = no value). `kind`, `expected` and, from `cursor` on, the parameters of
-- the kind in `arguments` are those in the header of mutate.lua; `server` and `keys` those of write.lua. Return the reply of a
-- change that has nothing to write, such as an error; or nil, and the planned change.
local function plan(server, keys, key, kind, expected, old, arguments, cursor)
  if expected ~= "" then
    local actual = old and (server.call("HGET", keys[2], key) or "0-0") or "none"
    if actual ~= expected then
      return { err = "CONFLICT " .. actual }
    end
  end
  if kind == "set" then
    local text = arguments[cursor]
    if old then
      return nil, text, nil, "new", text, "old", old
    end
    return nil, text, nil, "new", text
  elseif kind == "delete" or kind == "drop" then
    if not old then
      return {}
    end
    return nil, false, kind == "delete" and old or nil, "old", old
  elseif not old and kind == "strict update" then
    return { err = "KEYMISSING" }
  end
  return plan_update(server, keys, key, old, arguments, cursor, kind == "strict update")
end

return plan
