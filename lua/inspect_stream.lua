-- Tell how far each group of a stream has come.
--
-- KEYS     1 the stream
-- ARGV     none
-- RETURNS  for each group: {name, entries pending, id of the oldest entry not handled ("" = none), entries not yet delivered
--          (-1 = this server does not know: count_entries.lua does), id of the last entry delivered}; {} without stream
-- COST     constant for each group, and the bytes of three entries
-- INVARIANT nothing is changed.

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
    elseif group.lag then -- not before Redis 7, and not after a deletion ahead
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
