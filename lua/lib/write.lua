-- Writes one change that was planned: its event, its revision, the set of scopes, its value. Nothing is checked here.
--
-- A script creates its functions again in every call, and each variable around a function that it uses costs as much as a call.
-- So this function uses none.

-- Change `key` from `old` (false = no value) to `new`, and return the reply {revision, returned}.
--
-- `server` has call and pcall of Redis. `keys` has the KEYS 1 to 4 of mutate.lua. `trace` is a trace id, "" for none. `event` is
-- the type of the event, nil = created or updated. What follows `returned` are the fields of the event that say what changed;
-- docs/format.md lists them. A field that would be empty is left out. COST: the bytes of the old and the new value.
local function write(server, keys, scope, key, request, trace, event, old, new, returned, ...)
  local call, attempt = server.call, server.pcall
  local revisions, events = keys[2], keys[4]
  event = event or (old and "state:updated" or "state:created")
  local revision
  if trace == "" then
    revision = call("XADD", events, "*", "type", event, "scope", scope, "key", key, "request", request, ...)
  else
    revision = call("XADD", events, "*", "type", event, "scope", scope, "key", key, "request", request, "trace", trace, ...)
  end
  -- If a write fails now, the event must be deleted again. A write fails when another client put another type under one of our
  -- keys. The value is written last, because HGET has shown that this write cannot fail.
  local written = attempt("HSET", revisions, key, revision)
  local is_done, created_scope = written == 0 or written == 1, false -- not an error
  if is_done and not old then
    written = attempt("SADD", keys[3], scope)
    is_done, created_scope = written == 0 or written == 1, written == 1
    if not is_done then
      call("HDEL", revisions, key)
    end
  end
  if not is_done then
    call("XDEL", events, revision)
    return written
  end
  call("HSET", keys[1], key, new)
  if created_scope then
    return { revision, returned or "", 0, 1 }
  end
  return { revision, returned }
end

return write
