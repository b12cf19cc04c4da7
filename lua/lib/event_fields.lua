-- Describe an update to its event.

-- Return what follows `old` in the arguments of write.lua, for an update that put `text` in the place of `old`: only the bytes
-- `first` to `last` of the old text were replaced. COST: the bytes that were replaced.
local function event_fields(old, text, first, last)
  local replaced, kept = string.sub(old, first, last), string.format("%d:%d", first - 1, #old - last)
  if kept == "0:0" then
    return text, text, "new", text, "old", replaced
  elseif replaced == "" then
    return text, text, "new", text, "kept", kept
  end
  return text, text, "new", text, "kept", kept, "old", replaced
end

return event_fields
