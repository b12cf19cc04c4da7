-- Plans one change: checks it and computes the new text. Nothing is written, so that all changes of a call can be planned
-- before the first one is written.
--
-- A planned change is what follows `old` in the arguments of write.lua: the new text (false = deleted), the text to return, and
-- the fields of the event. Several values cost less than a table.

local MARK = "\t\r\t" -- ends every text that this package writes; see codec.py

-- Return the planned change that puts `text` in the place of `old`, of which only the bytes `first` to `last` were replaced.
-- `tail` is what shall follow the JSON in the new text, nil = the same `behind` bytes as in the old one.
local function replace(old, text, first, last, tail, behind)
  if tail then
    text, last = string.sub(text, 1, #text - behind) .. tail, #old
  end
  return nil, require("lib.event_fields")(old, text, first, last)
end

-- Plan an update: `arguments` has the largest size of the result at `cursor`, then the operations. Return like `plan`.
-- COST: see direct.lua and patch.lua.
local function plan_update(server, keys, key, old, ending, tail, arguments, cursor, is_strict)
  local behind = old and #old - ending or #MARK -- bytes behind the JSON
  local largest = arguments[cursor] + behind
  if old then
    local text, first, last = require("lib.direct")(old, ending, arguments, cursor + 1)
    if text and #text <= largest then
      return replace(old, text, first, last, tail, behind)
    end
  end
  local patch = require("lib.patch")
  local document = patch.new_document(old or "{}" .. MARK, ending or 2, string.sub(keys[5], -16)) -- the request id
  local done, failure = pcall(patch.apply, document, arguments, cursor + 1, is_strict)
  if not done then
    if type(failure) ~= "table" then
      error(failure, 0)
    end
    return { err = failure.code .. " " .. document.operation .. " " .. failure.detail }
  end
  local text = document.text
  if old and not document.changed and not tail then
    return { server.call("HGET", keys[2], key) or "0-0", old }
  elseif #text > largest then
    return { err = "TOOLARGE " .. #text - behind }
  elseif not old then
    text = tail and string.sub(text, 1, -#MARK - 1) .. tail or text
    return nil, text, text, "new", text
  end
  return replace(old, text, document.prefix + 1, #old - document.suffix, tail, behind)
end

-- Plan the change of `key`, which holds `old` (false = no value), whose JSON ends at `ending`. `tail` is what shall follow the
-- JSON in the new text, nil = what `set` is given, or what follows it in `old`; see expiry.lua. `kind`, `expected` and, from
-- `cursor` on, the parameters of the kind in `arguments` are those in the header of mutate.lua; `server` and `keys` those of
-- write.lua. Return the reply of a change that has nothing to write, such as an error; or nil, and the planned change.
local function plan(server, keys, key, kind, expected, old, ending, tail, arguments, cursor)
  if expected ~= "" then
    local actual = old and (server.call("HGET", keys[2], key) or "0-0") or "none"
    if actual ~= expected then
      return { err = "CONFLICT " .. actual }
    end
  end
  if kind == "set" then
    local text = tail and string.sub(arguments[cursor], 1, -#MARK - 1) .. tail or arguments[cursor]
    if old then
      return nil, text, nil, "new", text, "old", old
    end
    return nil, text, nil, "new", text
  elseif kind == "delete" or kind == "drop" then
    if not old then
      return {}
    end
    return nil, false, kind == "delete" and old or nil, "old", old
  elseif kind == "expire" then
    if not old then
      return {}
    elseif not tail then
      return { server.call("HGET", keys[2], key) or "0-0" }
    end
    local text, kept = string.sub(old, 1, ending) .. tail, ending .. ":0"
    if ending == #old then
      return nil, text, nil, "new", text, "kept", kept
    end
    return nil, text, nil, "new", text, "kept", kept, "old", string.sub(old, ending + 1)
  elseif not old and kind == "strict update" then
    return { err = "KEYMISSING" }
  end
  return plan_update(server, keys, key, old, ending, tail, arguments, cursor, kind == "strict update")
end

return plan
