-- Return how far groups of a lane have come.
--
-- FLAGS    no-writes
-- KEYS     1 stream of the lane  2... for each group: the hash of the lane's entries
-- ARGV     1 number of attempts from which an entry is failing (1 or more)  2... the groups
-- RETURNS  for each group {} when there is none of this name; else {number of entries that were handed out and are not finished,
--          id of the oldest entry not finished ("" = none), number of entries not handed out yet (-1 = use count_entries.lua),
--          id after which these begin, number of failing entries,
--          and for up to three of these, those with the most attempts first: {id, what is known of it, see lib/lease.lua,
--          {field, value, ...} of its fields that name what it is about}, ...}
-- ERRORS   none of its own
-- COST     the number of groups of the stream and of their unfinished entries, and the bytes of five entries for each group
-- INVARIANT nothing changes.

local groups = require("lib.groups")

local stream = KEYS[1]
local least = tonumber(ARGV[1])
local FIRST_GROUP = 2

local NAMED = 3 -- failing entries that are returned
local NAMES = { scope = true, key = true, topic = true, schedule = true, type = true }

-- Put an entry into the list of those with the most attempts, which stays short.
local function note_failing(worst, id, attempts)
  local at = #worst + 1
  while at > 1 and (attempts > worst[at - 1][2] or (attempts == worst[at - 1][2] and id < worst[at - 1][1])) do
    at = at - 1
  end
  table.insert(worst, at, { id, attempts })
  worst[NAMED + 1] = nil
end

local function names_of(id)
  local entry = redis.call("XRANGE", stream, id, id)[1]
  local names = {}
  for index = 1, entry and #entry[2] or 0, 2 do
    if NAMES[entry[2][index]] then
      names[#names + 1] = entry[2][index]
      names[#names + 1] = entry[2][index + 1]
    end
  end
  return names
end

local marks = groups.marks(redis.call, stream)

local function inspect(group, entries)
  local mark = marks[group]
  if not mark then
    return {}
  end
  local known = groups.by_name(redis.call("HGETALL", entries))
  local position = known.position or mark
  local unfinished, failing, worst = 0, 0, {}
  for field, value in pairs(known) do
    if field ~= "position" and value ~= "done" then
      unfinished = unfinished + 1
      local attempts = tonumber(string.match(value, "^(%d+):%d*:"))
      if attempts and attempts >= least then
        failing = failing + 1
        note_failing(worst, field, attempts)
      end
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
  local found = { unfinished, oldest, waiting, position, failing }
  for _, entry in ipairs(worst) do
    found[#found + 1] = { entry[1], known[entry[1]], names_of(entry[1]) }
  end
  return found
end

local found = {}
for index = FIRST_GROUP, #KEYS do
  found[#found + 1] = inspect(ARGV[index], KEYS[index])
end
return found
