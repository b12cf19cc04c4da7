-- Adds JSON numbers: 64-bit integers exactly, everything else as doubles, the way Python's + does.

local find, format, match, rep, sub = string.find, string.format, string.match, string.rep, string.sub

local EXACT_DIGITS = 15 -- integers of up to 15 digits, and the sum of two, are exact in a double
local LONGEST = 400 -- characters of a number; one that is longer was not written by a program that computes
local CHUNK = 7 -- digits that the long addition handles at once

-- Compare two strings of digits without leading zeros as numbers: -1, 0 or 1.
local function compare_digits(a, b)
  if #a ~= #b then
    return #a < #b and -1 or 1
  end
  return a == b and 0 or (a < b and -1 or 1)
end

local function strip_zeros(digits)
  return match(digits, "^0*(%d+)$")
end

-- a + sign * b on strings of digits, where a >= b when sign is -1.
local function combine_digits(a, b, sign)
  local width = math.ceil((math.max(#a, #b) + 1) / CHUNK) * CHUNK
  a, b = rep("0", width - #a) .. a, rep("0", width - #b) .. b
  local parts, carry = {}, 0
  for last = width, 1, -CHUNK do
    local first = last - CHUNK + 1
    local sum = tonumber(sub(a, first, last)) + sign * tonumber(sub(b, first, last)) + carry
    carry = math.floor(sum / 10 ^ CHUNK)
    parts[#parts + 1] = format("%07.0f", sum - carry * 10 ^ CHUNK)
  end
  local digits = ""
  for index = #parts, 1, -1 do
    digits = digits .. parts[index]
  end
  return strip_zeros(digits)
end

local function split_sign(text)
  local sign, digits = match(text, "^(%-?)(%d+)$")
  return sign, strip_zeros(digits)
end

-- COST: the digits, at most 40.
local function add_long(a, b)
  local sign_a, digits_a = split_sign(a)
  local sign_b, digits_b = split_sign(b)
  local sign, digits = sign_a
  if sign_a == sign_b then
    digits = combine_digits(digits_a, digits_b, 1)
  elseif compare_digits(digits_a, digits_b) >= 0 then
    digits = combine_digits(digits_a, digits_b, -1)
  else
    sign, digits = sign_b, combine_digits(digits_b, digits_a, -1)
  end
  return digits == "0" and digits or sign .. digits
end

local function fits_64_bits(integer)
  local sign, digits = split_sign(integer)
  local limit = sign == "-" and "9223372036854775808" or "18446744073709551615"
  return #digits < #limit or compare_digits(digits, limit) <= 0
end

-- The shortest text that reads back as the same double, always with a point or an exponent: a float stays a float.
local function float_text(number)
  local text
  -- Subnormal doubles have fewer digits; the others need at least 15 to be sure.
  for digits = math.abs(number) < 2.3e-308 and 1 or 15, 17 do
    text = format("%." .. digits .. "g", number)
    if tonumber(text) == number then
      break
    end
  end
  return find(text, "[.e]") and text or text .. ".0"
end

local function is_integer(text)
  return not find(text, "[.eE]")
end

-- The double nearest to a JSON number. An integer has no sign of zero.
local function double(text)
  return is_integer(text) and tonumber(text) + 0 or tonumber(text) -- "+ 0" turns -0 into 0
end

-- The sum of a JSON number and an amount as JSON text; or nil and why not: "integer" or "float".
local function add(a, b)
  if is_integer(a) and is_integer(b) then
    if #a <= EXACT_DIGITS and #b <= EXACT_DIGITS then
      return format("%.0f", double(a) + double(b))
    end
    if not fits_64_bits(a) then
      return nil, "integer"
    end
    local sum = add_long(a, b)
    if not fits_64_bits(sum) then
      return nil, "integer"
    end
    return sum
  end
  local sum = double(a) + tonumber(b) -- a decrement by 0 adds -0: it leaves -0.0 as it is
  if sum ~= sum or sum == math.huge or sum == -math.huge then
    return nil, "float"
  end
  return float_text(sum)
end

-- The sum of two JSON numbers as JSON text; raises OVERFLOW when there is none.
local function checked_add(a, b)
  local sum, reason
  if #a <= LONGEST and #b <= LONGEST then
    sum, reason = add(a, b)
  end
  if not sum then
    error({ code = "OVERFLOW", detail = reason or "digits" }, 0)
  end
  return sum
end

-- Whether two JSON numbers are the same number: exactly for integers, as doubles otherwise.
local equal
function equal(a, b)
  if is_integer(a) and is_integer(b) then
    local sign_a, digits_a = split_sign(a)
    local sign_b, digits_b = split_sign(b)
    return digits_a == digits_b and (sign_a == sign_b or digits_a == "0")
  end
  local number_a, number_b = tonumber(a), tonumber(b)
  if number_a ~= number_b or is_integer(a) == is_integer(b) then
    return number_a == number_b
  end
  -- An integer and a float: no double stands between the integer and itself only if the float's digits are the integer's.
  local integer, float = a, number_b
  if is_integer(b) then
    integer, float = b, number_a
  end
  return equal(integer, format("%.0f", float))
end

return { add = add, checked_add = checked_add, equal = equal }
