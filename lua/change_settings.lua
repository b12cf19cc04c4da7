-- Change settings that stand beside the layout of a namespace.
--
-- FLAGS    allow-oom
-- KEYS     1 hash of the layout
-- ARGV     1 format version that the caller knows  2... fields and values
-- RETURNS  {field, value, ...} as stored afterwards; {} when there is no layout. Nothing changes if the format version differs
-- ERRORS   none of its own
-- COST     the number of fields
-- INVARIANT partitions, lanes and the format version never change. Works over maxmemory.

local full = require("lib.full")

local layout = KEYS[1]
local version = ARGV[1]
local FIRST_FIELD = 2

if redis.call("HGET", layout, "version") == version then
  full.allow_writes(redis.call, layout)
  redis.call("HSET", layout, unpack(ARGV, FIRST_FIELD))
end
return redis.call("HGETALL", layout)
