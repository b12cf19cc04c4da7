-- Read a value and its revision in one atomic step.
--
-- FLAGS    no-writes
-- KEYS     1 hash of the scope's values  2 hash of the scope's revisions
-- ARGV     1 key
-- RETURNS  {text, revision} ("0-0" when another client wrote the value); {} when the key holds no value
-- ERRORS   none of its own
-- COST     the bytes of the value
-- INVARIANT nothing changes.

local values, revisions = KEYS[1], KEYS[2]
local key = ARGV[1]

local text = redis.call("HGET", values, key)
if not text then
  return {}
end
return { text, redis.call("HGET", revisions, key) or "0-0" }
