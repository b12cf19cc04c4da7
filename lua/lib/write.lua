-- Writes one change that was planned: its event, its revision, the set of scopes, its value. Nothing is checked here.
--
-- A script creates its functions again in every call, and each variable around a function that it uses costs as much as a call.
-- So this function uses none.

-- Change `key` from `old` (false = no value) to `new` (false = deleted), and return the reply {revision, returned}. If Redis
-- refuses the event of a deletion, nothing was written yet: return the error.
--
-- `server` has call and pcall of Redis. `keys` has the KEYS 1 to 5 of mutate.lua; without the fifth the event has no request id.
-- `trace` is a trace id, "" for none. `event` is the type of the event; nil = as `old` and `new` say. What follows `returned`
-- are the fields of the event that say what changed; docs/format.md lists them. A field that would be empty is left out.
-- COST: the bytes of the old and the new value.
local function write(server, keys, key, trace, event, old, new, returned, ...)
  local sub = string.sub
  local values, revisions, scopes, events, record = keys[1], keys[2], keys[3], keys[4], keys[5]
  local _, tag = string.find(values, "}:", 1, true) -- all keys begin with the same hash tag
  local scope = sub(values, tag + 7) -- behind "state:"
  event = event or not old and "state:created" or new and "state:updated" or "state:deleted"
  local append, attempt = new and server.call or server.pcall, server.pcall
  local request = record and sub(record, tag + 9) -- behind "request:"
  local revision
  if not request then
    revision = append("XADD", events, "*", "type", event, "scope", scope, "key", key, ...)
  elseif trace == "" then
    revision = append("XADD", events, "*", "type", event, "scope", scope, "key", key, "request", request, ...)
  else
    revision = append("XADD", events, "*", "type", event, "scope", scope, "key", key, "request", request, "trace", trace, ...)
  end
  if type(revision) == "table" then
    return revision
  end
  -- If a write fails now, the event must be deleted again. A write fails when another client put another type under one of our
  -- keys. The value is written last, because HGET has shown that this write cannot fail.
  local written
  if new then
    written = attempt("HSET", revisions, key, revision)
  else
    written = attempt("HDEL", revisions, key)
  end
  if not old and type(written) ~= "table" then
    written = attempt("SADD", scopes, scope)
    if type(written) == "table" then
      server.call("HDEL", revisions, key)
    end
  end
  if type(written) == "table" then
    server.call("XDEL", events, revision)
    return written
  end
  if new then
    server.call("HSET", values, key, new)
  else
    server.call("HDEL", values, key)
    if server.call("EXISTS", values) == 0 then
      attempt("SREM", scopes, scope)
    end
  end
  if not old and written == 1 then -- the reply of SADD
    return { revision, returned or "", 0, 1 }
  end
  return { revision, returned }
end

return write
