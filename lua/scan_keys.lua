-- Return one page of a scope's keys, without their values.
--
-- FLAGS    no-writes
-- KEYS     1 hash of the scope's values
-- ARGV     1 cursor ("0" to begin)  2 about how many keys (1 or more)
-- RETURNS  {next cursor ("0" at the end), {key, ...}, bytes of these keys, and of their values if the server read them}
-- ERRORS   none of its own
-- COST     about ARGV 2 keys; before Redis 7.4 and Valkey 8 also the bytes of their values, which stay inside Redis
-- INVARIANT nothing changes. A key that exists during the whole scan is in at least one page.

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
