-- List one page of a scope's keys, values and revisions.
--
-- FLAGS    no-writes
-- KEYS     1 hash of the scope's values  2 hash of the scope's revisions
-- ARGV     1 cursor ("0" to begin)  2 about how many keys (1 or more)  3 bytes of values that fit into the page
--          4... keys that the previous page left over, to read instead of new ones; the cursor is then returned unchanged
-- RETURNS  {next cursor ("0" at the end), {key, value, key, value ...}, {key that is left over, ...},
--            {revision of each key of the page; "0-0" when another client wrote the value}}
-- ERRORS   none of its own
-- COST     the bytes of the page: ARGV 3, or one larger value
-- INVARIANT nothing changes. Values and revisions belong together. A key that exists during the whole scan is in some page.

local hash_page = require("lib.hash_page")

local values, revisions = KEYS[1], KEYS[2]
local cursor, count, fitting = ARGV[1], ARGV[2], tonumber(ARGV[3])
local FIRST_LEFT = 4

local following, items, left = hash_page.read(redis, values, cursor, count, fitting, { unpack(ARGV, FIRST_LEFT) })
local found = {}
for index = 1, #items, 2 do
  found[#found + 1] = redis.call("HGET", revisions, items[index]) or "0-0"
end
return { following, items, left, found }
