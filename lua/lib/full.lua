-- Lets a script write while Redis is over maxmemory. `call` is redis.call.
--
-- Over maxmemory, with noeviction, Redis refuses commands that may take memory (it marks them "denyoom": XADD, HSET, SET, ...)
-- in a script that has not written yet. Once a script has written, Redis lets the script finish. So a script that must work on a
-- full server first runs a write that is not marked and changes nothing. It works on Redis 6.2, Redis 8.2 and Valkey 9.1.
--
-- Only scripts that free memory, or that keep workers going, may do this. Scripts that store more must be refused.

-- Let the script write from here on. `key` is a key of the script that is a hash or does not exist. COST: one HDEL.
local function allow_writes(call, key)
  call("HDEL", key, "") -- no hash of this package has a field with an empty name
end

-- Return whether a reply of redis.pcall is the refusal of a full server. Redis 6.2 puts the position in the script before it.
local function is_refusal(reply)
  return type(reply) == "table" and type(reply.err) == "string" and string.find(" " .. reply.err, "[ -]OOM ") ~= nil
end

return { allow_writes = allow_writes, is_refusal = is_refusal }
