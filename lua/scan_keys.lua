-- List one page of a scope's keys without their values.
--
-- KEYS     1 hash of the scope's values
-- ARGV     1 cursor ("0" to begin)  2 about how many keys
-- RETURNS  {next cursor ("0" at the end), keys, bytes read: of keys, and of values where they cannot be left out}
-- COST     the page: about ARGV[2] keys; before Redis 7.4 and Valkey 8 also the bytes of their values, inside of Redis
-- INVARIANT nothing is changed; a key that is there all the time is in some page, maybe in two.

local values = KEYS[1]
local cursor, count = ARGV[1], ARGV[2]

local page = redis.pcall("HSCAN", values, cursor, "COUNT", count, "NOVALUES")
local step = 1
if page.err then
  page = redis.call("HSCAN", values, cursor, "COUNT", count)
  step = 2
end
local keys, bytes = {}, 0
for index = 1, #page[2], step do
  keys[#keys + 1] = page[2][index]
  bytes = bytes + #page[2][index]
  if step == 2 then
    bytes = bytes + #page[2][index + 1]
  end
end
return { page[1], keys, bytes }
