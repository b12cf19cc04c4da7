-- Move an entry that a step gave up on to the step's dead letters and acknowledge it, in one atomic step.
--
-- KEYS     1 stream of the entry  2 stream of the step's dead letters (same slot)
-- ARGV     1 group  2 entry id  3 step  4 error type  5 error text  6 attempts  7 time (unix milliseconds)
-- RETURNS  the dead letter's id, or nil when the entry was acknowledged before
-- COST     the bytes of the entry
-- INVARIANT an entry is pending or a dead letter, never both and never neither.

local stream, dead = KEYS[1], KEYS[2]
local group, id, step, error_type, error_text, attempts, time = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]

if redis.call("XACK", stream, group, id) == 0 then
  return nil
end
local letter = {
  "step", step, "stream", stream, "id", id, "error", error_type, "text", error_text, "attempts", attempts, "time", time,
}
local entry = redis.call("XRANGE", stream, id, id)[1]
if entry then
  for _, part in ipairs(entry[2]) do
    letter[#letter + 1] = part
  end
end
return redis.call("XADD", dead, "*", unpack(letter))
