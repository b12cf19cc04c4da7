-- Return the position of each consumer group of a stream.
--
-- KEYS     1 the stream
-- ARGV     none
-- RETURNS  for each group {name, number of pending entries, id of the oldest entry not handled ("" = none), number of entries not
--          yet delivered (-1 = unknown on this server: use count_entries.lua), id of the last entry delivered};
--          {} when there is no stream
-- ERRORS   none of its own
-- COST     the number of groups, and for each the bytes of an entry
-- INVARIANT nothing changes.

local stream = KEYS[1]

local function by_name(flat)
  local found = {}
  for index = 1, #flat, 2 do
    found[flat[index]] = flat[index + 1]
  end
  return found
end

if redis.call("EXISTS", stream) == 0 then
  return {}
end
local info = by_name(redis.call("XINFO", "STREAM", stream))
local length, first = info.length, info["first-entry"]
local groups = {}
for _, flat in ipairs(redis.call("XINFO", "GROUPS", stream)) do
  local group = by_name(flat)
  local delivered = group["last-delivered-id"]
  local following = redis.call("XRANGE", stream, "(" .. delivered, "+", "COUNT", 1)[1]
  local oldest, undelivered = "", 0
  if following then
    oldest = following[1]
    if first and first[1] == oldest then
      undelivered = length
    elseif group.lag then -- absent before Redis 7, and after a deletion among the entries not yet delivered
      undelivered = math.min(group.lag, length)
    else
      undelivered = -1
    end
  end
  if group.pending > 0 then
    oldest = redis.call("XPENDING", stream, group.name)[2]
  end
  groups[#groups + 1] = { group.name, group.pending, oldest, undelivered, delivered }
end
return groups
