-- The short way of the most frequent changes of values that expire: a set with a time to live, and an update that keeps the time.
-- It returns nothing where the long way (plan.lua) must decide: other ways to give a time, a value whose time has run out, and
-- what direct.lua leaves. Both ways must agree.

local expiry, write = require("lib.expiry"), require("lib.write")

-- Change `key` from `old` (false = no value), which expires if `expires`, and return the reply; or nil, and nothing was written.
-- `operation` is the index of the first operation in `arguments`; the parameter before it is the value of a set, or the largest
-- size of the result. The other parameters are those of mutate.lua and write.lua. COST: see direct.lua.
local function change(server, keys, arguments, operation, scope, key, request, trace, kind, ttl, old, expires)
  local now, time = expiry.now(server.pcall, keys[1]), expires and expiry.time_of(old)
  local parameter = arguments[operation - 1]
  if time and time <= now or expires and not time then
    return nil
  elseif kind == "set" then
    if not string.find(ttl, "^%d") then
      return nil
    end
    local text = expiry.with_time(parameter, now + ttl)
    server.call("ZADD", keys[7], string.format("%.0f", now + ttl), expiry.due_member(keys[1], keys[4], key))
    if old then
      return write(server, keys, scope, key, request, trace, nil, old, text, nil, "new", text, "old", old)
    end
    return write(server, keys, scope, key, request, trace, nil, old, text, nil, "new", text)
  elseif kind == "update" and time and (ttl == "" or string.find(ttl, "^keep")) then
    local text, first, last = require("lib.direct")(old, #old - expiry.BEHIND, arguments, operation)
    if text and #text <= parameter + expiry.BEHIND then
      return write(server, keys, scope, key, request, trace, nil, old, require("lib.event_fields")(old, text, first, last))
    end
  end
end

return change
