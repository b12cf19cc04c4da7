-- Tell how far the streams of a partition have come, and whether they still have an entry.
--
-- FLAGS    no-writes
-- KEYS     1 hash that records what was trimmed from the partition's streams  2... the streams
-- ARGV     for each stream the id of an entry to look for, or ""
-- RETURNS  {time of the server in Unix milliseconds,
--            {id of the last entry ("0-0" if there never was one), entries trimmed, entries there, 1 if the stream has the entry
--            of ARGV, else 0} for each stream}
-- ERRORS   none of its own
-- COST     the number of streams, and the bytes of two entries of each
-- INVARIANT nothing changes. Entries trimmed and entries there together are all that the stream has ever had.

local clock = require("lib.clock")

local trimmed = KEYS[1]
local FIRST_STREAM = 2

local function last_id(stream, length)
  if length > 0 then
    return redis.call("XREVRANGE", stream, "+", "-", "COUNT", 1)[1][1]
  end
  local info = redis.pcall("XINFO", "STREAM", stream) -- an error if there is no stream
  for index = 1, #info, 2 do
    if info[index] == "last-generated-id" then
      return info[index + 1]
    end
  end
  return "0-0"
end

local reply = { clock.now(redis.call) }
for index = FIRST_STREAM, #KEYS do
  local stream, wanted = KEYS[index], ARGV[index - 1]
  local length = redis.call("XLEN", stream)
  local removed = tonumber(redis.call("HGET", trimmed, "removed " .. stream) or 0)
  local has_entry = wanted ~= "" and redis.call("XRANGE", stream, wanted, wanted)[1] and 1 or 0
  reply[#reply + 1] = { last_id(stream, length), removed, length, has_entry }
end
return reply
