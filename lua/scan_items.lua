-- List one page of a scope's keys and values, with as many values as fit and at least one.
--
-- The command HSCAN gives whole buckets of a hash, however large: Valkey has up to about 14 values in one. So the names are
-- listed first, and values are read until the page is full. Before Redis 7.4 and Valkey 8 it cannot leave values out, and its
-- buckets are small.
--
-- KEYS     1 hash of the scope's values
-- ARGV     1 cursor ("0" to begin)  2 about how many keys  3 bytes of values that fit
--          4... keys that the page before left: they are read instead of new ones, and the cursor is returned
-- RETURNS  {next cursor ("0" at the end), {key, value, key, value ...}, keys that are left}
-- COST     the bytes of the page: ARGV[3], or one value that is larger
-- INVARIANT nothing is changed; a key that is there all the time is in some page, maybe in two.

local MOST = 64 -- names in a bucket; a page of more is a hash of few small values, which Redis gives as a whole

local values = KEYS[1]
local cursor, count, fitting = ARGV[1], ARGV[2], tonumber(ARGV[3])

local names = { unpack(ARGV, 4) }
if #names == 0 then
  local page = redis.pcall("HSCAN", values, cursor, "COUNT", count, "NOVALUES")
  if page.err or #page[2] > MOST then
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
