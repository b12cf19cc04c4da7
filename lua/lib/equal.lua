-- Compares two JSON texts as RFC 6902 defines it for `test`: the order of members, the spelling of strings and the spelling of
-- numbers do not matter.

local noncanonical = require("lib.noncanonical")
local number = require("lib.number")

local byte, sub = string.byte, string.sub

-- Return the value at `pos` as a tree, and its last byte. Leaves are tokens, strings among them canonical. The text must be JSON.
-- COST: a few searches per token.
local function parse(text, pos)
  local first = byte(text, pos)
  if first == 34 then
    local last = noncanonical.string_end(text, pos)
    return noncanonical.canonicalize(sub(text, pos, last)), last
  elseif first ~= 123 and first ~= 91 then
    local last = noncanonical.scalar_end(text, pos)
    return sub(text, pos, last), last
  end
  local tree = { kind = first, size = 0, items = {} }
  pos = noncanonical.solid(text, pos + 1)
  while byte(text, pos) ~= first + 2 do
    local name, last = tree.size
    if first == 123 then
      local name_end
      name, name_end = parse(text, pos)
      pos = noncanonical.solid(text, noncanonical.solid(text, name_end + 1) + 1)
    end
    tree.items[name], last = parse(text, pos)
    tree.size = tree.size + 1
    pos = noncanonical.solid(text, last + 1)
    if byte(text, pos) == 44 then
      pos = noncanonical.solid(text, pos + 1)
    end
  end
  return tree, pos
end

local function is_number(token)
  return string.find(token, "^[%d-]") ~= nil
end

local function same(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then
    if type(a) == "string" and type(b) == "string" and is_number(a) and is_number(b) then
      return number.equal(a, b)
    end
    return a == b
  end
  if a.kind ~= b.kind or a.size ~= b.size then
    return false
  end
  for name, item in pairs(a.items) do
    if b.items[name] == nil or not same(item, b.items[name]) then
      return false
    end
  end
  return true
end

-- Return whether both texts hold the same value. COST: one comparison when the bytes are equal, else some searches per token.
local function equal(a, b)
  return a == b or same((parse(a, 1)), (parse(b, 1)))
end

return { equal = equal }
