-- List one page of a scope's keys and values: as many values as fit, and at least one.
--
-- The command HSCAN returns whole buckets of a hash, however large. Valkey has up to about 14 values in one bucket. So the names
-- are listed first, and values are read until the page is full. Before Redis 7.4 and Valkey 8 it cannot leave the values out:
-- there the page is a whole bucket, which has few values.
--
-- FLAGS    no-writes
-- KEYS     1 hash of the scope's values
-- ARGV     1 cursor ("0" to begin)  2 about how many keys (1 or more)  3 bytes of values that fit into the page
--          4... keys to read instead of new ones: what the previous page left over, or what the caller wants; the cursor is then
--               returned unchanged
-- RETURNS  {next cursor ("0" at the end), {key, value, key, value ...}, {key that is left over, ...}}
-- ERRORS   none of its own
-- COST     the bytes of the page: ARGV 3, or one larger value
-- INVARIANT nothing changes. A key that exists during the whole scan is in at least one page.

local values = KEYS[1]
local cursor, count, fitting = ARGV[1], ARGV[2], tonumber(ARGV[3])
local FIRST_LEFT = 4
local MAX_NAMES = 64 -- in a bucket; a page of more is a hash of few small values, which Redis returns as a whole

local names = { unpack(ARGV, FIRST_LEFT) }
if #names == 0 then
  local page = redis.pcall("HSCAN", values, cursor, "COUNT", count, "NOVALUES")
  if page.err or #page[2] > MAX_NAMES then
    page = redis.call("HSCAN", values, cursor, "COUNT", count)
    return { page[1], page[2], {} }
  end
  cursor, names = page[1], page[2]
end

local items, left, bytes = {}, {}, 0
for index, name in ipairs(names) do
  bytes = bytes + redis.call("HSTRLEN", values, name)
  if bytes > fitting and #items > 0 then
    left = { unpack(names, index) }
    break
  end
  local value = redis.call("HGET", values, name)
  if value then
    items[#items + 1] = name
    items[#items + 1] = value
  end
end
return { cursor, items, left }
