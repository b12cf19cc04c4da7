-- Record that a worker is alive, and return all workers that are.
--
-- KEYS     1 hash of the namespace's workers: id -> "<expiry, Unix milliseconds> <description>"
-- ARGV     1 worker id  2 description (JSON)  3 time to live (milliseconds; 0 = the worker leaves)
-- RETURNS  {id, description, id, description, ...} of the live workers, this one included unless it leaves
-- ERRORS   none of its own
-- COST     the number of workers
-- INVARIANT the hash holds no worker that had expired before this call.

local workers = KEYS[1]
local id, description, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3])

local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ttl > 0 then
  redis.call("HSET", workers, id, string.format("%.0f", now + ttl) .. " " .. description)
else
  redis.call("HDEL", workers, id)
end
local all, live = redis.call("HGETALL", workers), {}
for index = 1, #all, 2 do
  local expiry, text = string.match(all[index + 1], "^(%d+) (.*)$")
  if tonumber(expiry) > now then
    live[#live + 1] = all[index]
    live[#live + 1] = text
  else
    redis.call("HDEL", workers, all[index])
  end
end
return live
