-- The time at which a value expires: 24 bytes of white space between the JSON text and its mark.
--
-- Each byte stands for two bits of the Unix time in milliseconds, the highest ones first. JSON allows white space there, so every
-- client reads the value. docs/format.md and motia_redis/_store/expiry.py say the same.

local byte, floor, sub = string.byte, math.floor, string.sub

local MARK = "\t\r\t" -- ends every text that this package writes; see codec.py
local FOREIGN_MARK = "\r\t\r" -- ends a text that another client wrote, behind its time
local DIGITS = 24
local GROUP = 6 -- digits that are spelled or read at once; where scripts are functions, each group only once
local BASE = 4096 -- 4 ^ GROUP
local PAIRS = "   \t \n \r\t \t\t\t\n\t\r\n \n\t\n\n\n\r\r \r\t\r\n\r\r" -- the spelling of 0 to 15, two bytes each
local VALUE = { [32] = 0, [9] = 1, [10] = 2, [13] = 3 }

local spelled, read = {}, {}

local function spell_group(number)
  local text, rest = "", number
  for _ = 1, GROUP / 2 do
    local pair = rest % 16
    text, rest = sub(PAIRS, 2 * pair + 1, 2 * pair + 2) .. text, (rest - pair) / 16
  end
  spelled[number] = text
  return text
end

local function read_group(text)
  local number = 0
  for index = 1, GROUP do
    local digit = VALUE[byte(text, index)]
    if not digit then
      return nil
    end
    number = number * 4 + digit
  end
  read[text] = number
  return number
end

-- Return a time (Unix milliseconds) as white space.
local function spell(time)
  local text = ""
  for _ = 1, DIGITS / GROUP do
    local group = time % BASE
    text, time = (spelled[group] or spell_group(group)) .. text, floor(time / BASE)
  end
  return text
end

-- Return a canonical text that does not expire as one that expires at a time.
local function with_time(text, time)
  return sub(text, 1, -#MARK - 1) .. spell(time) .. MARK
end

-- Return the time at which a stored text expires (Unix milliseconds), or nil if it does not. COST: O(1).
local function time_of(text)
  local mark = sub(text, -3)
  if #text < DIGITS + 3 or byte(text, -4) > 32 or (mark ~= MARK and mark ~= FOREIGN_MARK) then
    return nil
  end
  local time = 0
  for first = -DIGITS - 3, -GROUP - 3, GROUP do
    local group = sub(text, first, first + GROUP - 1)
    local number = read[group] or read_group(group)
    if not number then
      return nil
    end
    time = time * BASE + number
  end
  return time
end

-- Return the server's time, as a test may have moved it (Unix milliseconds). `call` is redis.pcall: the hash that says so is in
-- the slot of `key`, but it is no key of the script, so a slot that is on its way to another node may refuse to read it.
local function now(call, key)
  local _, tag = string.find(key, "}:", 1, true)
  return require("lib.clock").due_time(call, sub(key, 1, tag) .. "trimmed")
end

-- Return when the changed value expires, nil = never. `kind` and `ttl` are those of mutate.lua. The key holds `old` (false = no
-- value), which expires at `old_time` (nil = never).
local function new_time(kind, ttl, now_is, old, old_time)
  local default = string.match(ttl, "^keep:(.*)$")
  if ttl == "never" or (ttl == "" and kind == "set") then
    return nil
  elseif ttl == "" or (default and old) then
    return old and old_time or nil
  end
  return tonumber(default or ttl) and now_is + (default or ttl)
end

-- Return the last byte of the JSON in `old` (false = no value), and what shall follow the JSON in the changed text, nil = what
-- `set` is given, or what follows it in `old`. A text of another client gets no mark that says that it is canonical.
local function new_tail(kind, old, old_time, time)
  if not old or kind == "set" then
    return nil, time and spell(time) .. MARK
  end
  local is_canonical = sub(old, -3) == MARK
  local ending = #old - (old_time and DIGITS + 3 or is_canonical and 3 or 0)
  if time == old_time then
    return ending, nil
  elseif time then
    return ending, spell(time) .. (is_canonical and MARK or FOREIGN_MARK)
  end
  return ending, is_canonical and MARK or ""
end

-- Return the member of the sorted set `due` that stands for the value of `key`, from the names of the scope's hash of values and
-- of the stream of the key's lane.
local function due_member(values, events, key)
  local _, tag = string.find(values, "}:", 1, true)
  local scope = sub(values, tag + 7) -- behind "state:"
  return "expiry:" .. sub(events, tag + 8) .. ":" .. #scope .. ":" .. scope .. key -- behind "events:"
end

-- Return what a change does to the time at which a value expires. The parameters are those of mutate.lua; `call` is redis.pcall.
-- The result has
--   expired  the text of the old value, if its time has run out: then the change finds no value
--   ending, tail  what lib/plan.lua takes
--   time     when the new value expires (Unix milliseconds); nil = never
--   is_new   whether that is another time than before
--   was_due  whether the old value had a time
--   member   of the sorted set `due`
-- `at` is the time of the call, if it is known.
local function plan(call, keys, key, kind, ttl, old, at)
  local old_time = old and time_of(old)
  local now_is = (ttl ~= "" or old_time) and (at or now(call, keys[1]))
  local expired = old_time and old_time <= now_is and old
  old = not expired and old
  local time = new_time(kind, ttl, now_is, old, old_time)
  local ending, tail = new_tail(kind, old, old_time, time)
  return {
    expired = expired, ending = ending, tail = tail, time = time, is_new = time and (expired or time ~= old_time),
    was_due = old_time, member = due_member(keys[1], keys[4], key),
  }
end

return {
  BEHIND = DIGITS + #MARK, -- bytes behind the JSON of a text that expires
  spell = spell, with_time = with_time, time_of = time_of, now = now, due_member = due_member, plan = plan,
}
