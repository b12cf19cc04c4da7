-- Finds text. A plain find takes 0.1 ns for each byte, but 7 ns for each one that is the first byte of the needle (a
-- "candidate"), and up to 70 ns if the needle is long and they begin alike. How many candidates there were is estimated by some
-- bytes of the text. Their positions depend on the request id, so nobody can write a text whose candidates are not seen.

local byte, find, floor, sub = string.byte, string.find, math.floor, string.sub

local SAMPLES = 32
local SMALL, LARGE = 512, 256 * 1024 -- bytes: no estimate is needed; an estimate before the search, too
local MISSES = 8 -- how often a name may match as the end of another name, before the search includes its opening quote
local LONG = 64 -- bytes: a longer name is searched with its quote, because a comparison then never reads a byte twice
local STEP, ESTIMATE, PER_BYTE, PER_CANDIDATE = 2500, 3500, 0.2, 8 -- cost, see patch.lua

-- Return the cost of a search for a needle that begins with `first` in the bytes `from` to `last`.
local function cost_of(document, first, from, last)
  local width = (last - from) / SAMPLES
  if last - from <= SMALL then
    return STEP + PER_CANDIDATE * (last - from + 1)
  end
  local text, seed, hits = document.text, document.seed, 1
  for index = 0, SAMPLES - 1 do
    seed = seed * 16807 % 2147483647
    if byte(text, from + floor((index + seed / 2147483647) * width)) == first then
      hits = hits + 1
    end
  end
  document.seed = seed
  return STEP + ESTIMATE + (last - from) * (PER_BYTE + PER_CANDIDATE * hits / SAMPLES)
end

-- Return the first position of `needle` from `from` on; or nil. COST: the bytes up to it, and the candidates among them.
local function find_text(document, needle, from)
  local text, first = document.text, byte(needle)
  if #text - from > LARGE then
    document.check(document, cost_of(document, first, from, #text))
  end
  local found = find(text, needle, from, true)
  document.spend(document, cost_of(document, first, from, found or #text))
  return found
end

-- Return the next position from `from` on of the member name `name` (a JSON string token) with its colon; or nil.
local function next_name(document, name, from)
  if #name <= LONG then
    for _ = 1, MISSES do
      local found = find_text(document, sub(name, 2) .. ":", from + 1)
      if not found then
        return nil
      elseif byte(document.text, found - 1) == 34 then
        return found - 1
      end
      from = found
    end
  end
  return find_text(document, name .. ":", from)
end

return { find_text = find_text, next_name = next_name }
