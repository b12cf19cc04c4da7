-- List one page of a scope's keys and values: as many values as fit, and at least one.
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

local hash_page = require("lib.hash_page")

local values = KEYS[1]
local cursor, count, fitting = ARGV[1], ARGV[2], tonumber(ARGV[3])
local FIRST_LEFT = 4

return { hash_page.read(redis, values, cursor, count, fitting, { unpack(ARGV, FIRST_LEFT) }) }
