-- Writes one deletion that was planned, as write.lua writes other changes.

-- Append the event of a deletion and return its id, or the error of the stream. Without `request` the value `old` has expired.
-- `reason` says why the library itself deletes the value (nil = it does not). `attempt` is redis.pcall. COST: the bytes of the
-- old value.
local function append(attempt, events, scope, key, request, trace, old, reason)
  if not request then
    return attempt("XADD", events, "*", "type", "state:deleted", "scope", scope, "key", key, "old", old, "reason", "expired")
  elseif reason then
    return attempt(
      "XADD", events, "*", "type", "state:deleted", "scope", scope, "key", key, "request", request, "old", old, "reason", reason
    )
  elseif trace == "" then
    return attempt("XADD", events, "*", "type", "state:deleted", "scope", scope, "key", key, "request", request, "old", old)
  end
  return attempt(
    "XADD", events, "*", "type", "state:deleted", "scope", scope, "key", key, "request", request, "trace", trace, "old", old
  )
end

-- Delete `key`, which holds `old`, and return the reply {revision, returned}. If Redis refuses the event, nothing was written
-- yet: return the error. The parameters are those of write.lua; without `request` the value has expired. COST: the bytes of the
-- old value.
local function erase(server, keys, scope, key, request, trace, old, returned, reason)
  local call, attempt = server.call, server.pcall
  local values, revisions, scopes, events = keys[1], keys[2], keys[3], keys[4]
  local revision = append(attempt, events, scope, key, request, trace, old, reason)
  if type(revision) == "table" then
    return revision
  end
  -- If a write fails now, the event must be deleted again; see write.lua.
  local written = attempt("HDEL", revisions, key)
  if type(written) == "table" then
    call("XDEL", events, revision)
    return written
  end
  call("HDEL", values, key)
  if call("EXISTS", values) == 0 then
    attempt("SREM", scopes, scope)
  end
  return { revision, returned }
end

return { append = append, erase = erase }
