-- Move an entry to the step's dead letters and acknowledge it, in one atomic step.
--
-- KEYS     1 hash of the partition's leases  2 stream of the entry  3 hash of the step's recorded attempts
--          4 stream of the step's dead letters
-- ARGV     1 worker id  2 name of the lane  3 group  4 entry id  5 error type  6 error text  7 attempts made (decimal)
-- RETURNS  1 when the entry is a dead letter now; 0 when the worker does not hold the lane: then nothing changed
-- ERRORS   none of its own
-- COST     the bytes of the entry
-- INVARIANT an entry is either pending or a dead letter, never both and never neither.

local lease = require("lib.lease")

local leases, stream, recorded, dead = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local worker, lane, group, id = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local error_type, error_text, attempts = ARGV[5], ARGV[6], ARGV[7]

if not lease.holds(redis.call, leases, worker, lane) then
  return 0
end
-- The fields of the entry follow these seven; retry_dead_letter.lua depends on that.
local letter = {
  "step", group, "stream", stream, "id", id, "error", error_type, "text", error_text, "attempts", attempts,
  "time", string.format("%.0f", lease.now(redis.call)),
}
local entry = redis.call("XRANGE", stream, id, id)[1]
if entry then
  for _, part in ipairs(entry[2]) do
    letter[#letter + 1] = part
  end
end
-- Write the dead letter first. If that fails (its key holds another type), the entry stays pending.
local added = redis.call("XADD", dead, "*", unpack(letter))
if redis.call("XACK", stream, group, id) == 0 then
  redis.call("XDEL", dead, added) -- an earlier call moved the entry, and its reply was lost
  if redis.call("XLEN", dead) == 0 then
    redis.call("DEL", dead)
  end
end
redis.call("HDEL", recorded, lane .. " " .. id)
return 1
