-- Return how far the group of a lane has come.
--
-- FLAGS    no-writes
-- KEYS     1 stream of the lane  2 hash of the lane's entries
-- ARGV     1 group
-- RETURNS  {} when there is no such group; else {number of entries that were handed out and are not finished,
--          id of the oldest entry not finished ("" = none), number of entries not handed out yet (-1 = use count_entries.lua),
--          id after which these begin}
-- ERRORS   none of its own
-- COST     the number of groups of the stream and of the lane's unfinished entries, and the bytes of two entries
-- INVARIANT nothing changes.

local stream, entries = KEYS[1], KEYS[2]
local group = ARGV[1]

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
local mark
for _, flat in ipairs(redis.call("XINFO", "GROUPS", stream)) do
  local info = by_name(flat)
  if info.name == group then
    mark = info["last-delivered-id"]
  end
end
if not mark then
  return {}
end
local known = by_name(redis.call("HGETALL", entries))
local position = known.position or mark
local unfinished = 0
for field, value in pairs(known) do
  if field ~= "position" and value ~= "done" then
    unfinished = unfinished + 1
  end
end
local oldest, waiting = "", 0
local following = redis.call("XRANGE", stream, "(" .. position, "+", "COUNT", 1)[1]
if following then
  oldest = following[1]
  local first = redis.call("XRANGE", stream, "-", "+", "COUNT", 1)[1]
  waiting = first[1] == oldest and redis.call("XLEN", stream) or -1
end
if unfinished > 0 then
  local lowest = redis.call("XRANGE", stream, "(" .. mark, "+", "COUNT", 1)[1]
  oldest = lowest and lowest[1] or oldest
end
return { unfinished, oldest, waiting, position }
