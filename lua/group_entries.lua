-- Group the newest entries of a stream by the contents of some of their fields, and return the largest groups.
--
-- FLAGS    no-writes
-- KEYS     1 the stream
-- ARGV     1 how many entries to look at, at most (1 or more)  2 after how many bytes to end  3 how many groups to return
--          4... names of fields; an entry without one counts as if it were empty there
-- RETURNS  {entries of the stream, entries looked at, id of the oldest of these ("" = none),
--          {entries of the group, id of the newest of these, content of each field}, ... the largest group first}
-- ERRORS   none of its own
-- COST     the bytes of the entries looked at: at most ARGV 1 entries, and not many more bytes than ARGV 2
-- INVARIANT nothing changes.

local stream = KEYS[1]
local most, most_bytes, most_groups = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local FIRST_NAME = 4

local groups, by_name = {}, {}

-- Count one entry, and return its bytes.
local function note(entry)
  local content, bytes = {}, 0
  for index = 1, #entry[2], 2 do
    content[entry[2][index]] = entry[2][index + 1]
    bytes = bytes + #entry[2][index] + #entry[2][index + 1]
  end
  local values, name = {}, ""
  for index = FIRST_NAME, #ARGV do
    local value = content[ARGV[index]] or ""
    values[#values + 1] = value
    name = name .. #value .. ":" .. value
  end
  local group = by_name[name]
  if not group then
    group = { count = 0, newest = entry[1], values = values }
    groups[#groups + 1], by_name[name] = group, group
  end
  group.count = group.count + 1
  return bytes
end

local seen, bytes, oldest, page = 0, 0, "", 1 -- the first page is small because entries can be large
while seen < most and bytes < most_bytes do
  local last = oldest == "" and "+" or "(" .. oldest
  local entries = redis.call("XREVRANGE", stream, last, "-", "COUNT", math.min(page, most - seen))
  if #entries == 0 then
    break
  end
  for _, entry in ipairs(entries) do
    bytes = bytes + note(entry)
  end
  seen, oldest = seen + #entries, entries[#entries][1]
  page = math.max(1, math.min(100, math.floor((most_bytes - bytes) / (bytes / seen + 1))))
end

table.sort(groups, function(a, b)
  return a.count > b.count
end)
local found = { redis.call("XLEN", stream), seen, oldest }
for index = 1, math.min(most_groups, #groups) do
  local group = groups[index]
  found[#found + 1] = { group.count, group.newest, unpack(group.values) }
end
return found
