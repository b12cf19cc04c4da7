-- Reads what Redis knows of consumer groups.

-- Return the values of a flat reply by their names.
local function by_name(flat)
  local found = {}
  for index = 1, #flat, 2 do
    found[flat[index]] = flat[index + 1]
  end
  return found
end

-- Return by the names of a stream's groups the ids up to which they were given entries. COST: the number of groups.
local function marks(call, stream)
  local found = {}
  for _, flat in ipairs(call("EXISTS", stream) == 1 and call("XINFO", "GROUPS", stream) or {}) do
    local info = by_name(flat)
    found[info.name] = info["last-delivered-id"]
  end
  return found
end

-- Return the id up to which a group of a stream was given entries; nil if there is no such group. COST: the number of groups.
local function last_delivered(call, stream, group)
  return marks(call, stream)[group]
end

return { by_name = by_name, marks = marks, last_delivered = last_delivered }
