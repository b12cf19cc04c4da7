-- Read a value and its revision as they are at one moment.
--
-- KEYS     1 hash of the scope's values  2 hash of the scope's revisions
-- ARGV     1 key
-- RETURNS  {text, revision or nil}, or {} when the key holds no value
-- COST     the bytes of the value
-- INVARIANT nothing is changed.

local text = redis.call("HGET", KEYS[1], ARGV[1])
if not text then
  return {}
end
return { text, redis.call("HGET", KEYS[2], ARGV[1]) or "0-0" }
