-- Append the event of a dead letter to the end of its stream, for its step alone, and delete the dead letter.
--
-- FLAGS    allow-oom
-- KEYS     1 stream of the step's dead letters  2 stream that the event came from, by its name today
-- ARGV     1 step  2 id of the dead letter  3 name that the stream had then
-- RETURNS  {"retried", id of the new entry}; or, with nothing changed: {"gone"} = the step has no such dead letter from that
--          stream, {"empty"} = the dead letter has no event, which was trimmed earlier, {"no group"} = the step has no consumer
--          group on the stream, so nobody would read the event
-- ERRORS   none of its own
-- COST     the bytes of the dead letter, and the number of groups of the stream
-- INVARIANT an event is either in the stream or a dead letter, never both and never neither. Works over maxmemory: the event only
--          moves.

local dead, stream = KEYS[1], KEYS[2]
local step, id, origin = ARGV[1], ARGV[2], ARGV[3]

local letter = redis.call("XRANGE", dead, id, id)[1]
local about, event = {}, {}
for index, part in ipairs(letter and letter[2] or {}) do
  if index > 18 then
    event[#event + 1] = part
  elseif index % 2 == 0 then
    about[letter[2][index - 1]] = part
  end
end
if about.stream ~= origin then
  return { "gone" }
elseif #event == 0 then
  return { "empty" }
end

local found = false
if redis.call("EXISTS", stream) == 1 then
  for _, group in ipairs(redis.call("XINFO", "GROUPS", stream)) do
    found = found or group[2] == step
  end
end
if not found then
  return { "no group" }
end

-- `only` hides the entry from other steps. `revision` is that of the change. A request id must occur in one change event only.
local kept, revision = { "only", step }, about.id
local is_change = string.sub(event[2], 1, 6) == "state:"
for index = 1, #event, 2 do
  local name, value = event[index], event[index + 1]
  if name == "revision" then
    revision = value
  elseif name ~= "only" and not (name == "request" and is_change) then
    kept[#kept + 1] = name
    kept[#kept + 1] = value
  end
end
redis.call("XDEL", dead, "0-0") -- no entry has this id; a script that has written may write over maxmemory, see lib/full.lua
local added = redis.call("XADD", stream, "*", "revision", revision, unpack(kept))
redis.call("XDEL", dead, id)
if redis.call("XLEN", dead) == 0 then
  redis.call("DEL", dead)
end
return { "retried", added }
