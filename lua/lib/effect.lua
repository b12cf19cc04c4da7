-- Records a call of a handler that was not made before. Its first attempt has the attempt token
-- "@<id of the call, 16 digits><lifetime, milliseconds; empty = the hash keeps its own>", see lib/dedupe.lua. A script creates
-- its functions again in every call, so this is not in lib/dedupe.lua, which has many.

-- Record the outcome of the call, and return its reply. A repeated "set" returns its `parameter`, the value that was stored. An
-- error is not recorded: the next attempt of the handler may have another outcome. COST: one HSET, and one PEXPIRE.
-- `call` is redis.call, `hash` holds the outcomes of the event's calls.
local function record(call, hash, token, reply, kind, parameter)
  if not reply.err then
    local text = kind == "set" and parameter or reply[2] or ""
    call("HSET", hash, string.sub(token, 2, 17), (reply[1] or "") .. "\n" .. text)
    if #token > 17 then
      call("PEXPIRE", hash, string.sub(token, 18))
    end
  end
  return reply
end

return { record = record }
