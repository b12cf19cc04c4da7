-- Write the layout of a namespace if it has none, and return the stored one.
--
-- FLAGS    allow-oom
-- KEYS     1 hash of the layout
-- ARGV     1... fields and values
-- RETURNS  {field, value, ...} as stored
-- ERRORS   none of its own
-- COST     the number of fields
-- INVARIANT a layout is written once, as a whole. Works over maxmemory: a layout that got lost with its data can be restored.

local full = require("lib.full")

local layout = KEYS[1]
local FIRST_FIELD = 1

if redis.call("EXISTS", layout) == 0 then
  full.allow_writes(redis.call, layout)
  redis.call("HSET", layout, unpack(ARGV, FIRST_FIELD))
end
return redis.call("HGETALL", layout)
