-- Count the entries of a stream between two ids.
--
-- FLAGS    no-writes
-- KEYS     1 the stream
-- ARGV     1 entry id after which to count  2 how many to count at most (1 or more)  3 last id to count; "+" = all
-- RETURNS  {count, id of the last entry counted}; the id is "" when the count has reached its end
-- ERRORS   none of its own
-- COST     the bytes of the entries counted: at most ARGV 2 entries, and not many more than 4 MiB
-- INVARIANT nothing changes.

local stream = KEYS[1]
local position, most, last = ARGV[1], tonumber(ARGV[2]), ARGV[3]

local BYTES = 4 * 1024 * 1024
local count, bytes, page = 0, 0, 4 -- the first page is small because entries can be large
while count < most and bytes < BYTES do
  local entries = redis.call("XRANGE", stream, "(" .. position, last, "COUNT", math.min(page, most - count))
  if #entries == 0 then
    return { count, "" }
  end
  for _, entry in ipairs(entries) do
    for _, part in ipairs(entry[2]) do
      bytes = bytes + #part
    end
  end
  count, position = count + #entries, entries[#entries][1]
  page = math.max(1, math.min(500, math.floor(BYTES / 8 / (bytes / count + 1))))
end
return { count, position }
