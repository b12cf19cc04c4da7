-- Write something, so that a WAIT or WAITAOF behind it on the same connection covers all earlier writes.
--
-- FLAGS    allow-oom
-- KEYS     1 a hash of the partition, or a key that does not exist  2 the key to write
-- ARGV     1 lifetime of the key (milliseconds)
-- RETURNS  the status OK
-- ERRORS   none of its own
-- COST     constant
-- INVARIANT the key ends by itself. Works over maxmemory: deletions need it.

local full = require("lib.full")

local hash, mark = KEYS[1], KEYS[2]
local lifetime = ARGV[1]

full.allow_writes(redis.call, hash)
return redis.call("SET", mark, "", "PX", lifetime)
