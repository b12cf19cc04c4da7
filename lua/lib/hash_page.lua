-- Reads one page of a hash: as many values as fit, and at least one.
--
-- The command HSCAN returns whole buckets of a hash, however large. Valkey has up to about 14 values in one bucket. So the names
-- are listed first, and values are read until the page is full. Before Redis 7.4 and Valkey 8 it cannot leave the values out:
-- there the page is a whole bucket, which has few values.

local MAX_NAMES = 64 -- in a bucket; a page of more is a hash of few small values, which Redis returns as a whole

-- Return the next cursor, a flat list of names and values, and the names that are left over. `server` has call and pcall.
-- Without `names`, which are read instead of new ones, about `count` names are listed at the cursor. COST: the page's bytes.
local function read(server, hash, cursor, count, fitting, names)
  if #names == 0 then
    local page = server.pcall("HSCAN", hash, cursor, "COUNT", count, "NOVALUES")
    if page.err or #page[2] > MAX_NAMES then
      page = server.call("HSCAN", hash, cursor, "COUNT", count)
      return page[1], page[2], {}
    end
    cursor, names = page[1], page[2]
  end

  local items, left, bytes = {}, {}, 0
  for index, name in ipairs(names) do
    bytes = bytes + server.call("HSTRLEN", hash, name)
    if bytes > fitting and #items > 0 then
      left = { unpack(names, index) }
      break
    end
    local value = server.call("HGET", hash, name)
    if value then
      items[#items + 1] = name
      items[#items + 1] = value
    end
  end
  return cursor, items, left
end

return { read = read }
