-- Take tokens from the bucket of a step's rate.
--
-- FLAGS    allow-oom
-- KEYS     1 hash of the bucket: "paid" -> up to which time tokens were taken (Unix milliseconds). No hash = the bucket is full
-- ARGV     1 milliseconds in which the bucket gets one token (over 0)  2 how many it holds (1 or more)  3 how many to take
-- RETURNS  {number taken, milliseconds until the others are there; 0 = all were taken}
-- ERRORS   none of its own
-- COST     constant
-- INVARIANT in any time T at most T / ARGV 1 + ARGV 2 tokens are taken. A full bucket takes no memory. After the server's clock
--          was set back, the bucket is empty, and fills from then on. Works over maxmemory.

local clock = require("lib.clock")
local full = require("lib.full")

local bucket = KEYS[1]
local interval, capacity, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

local EXACT = 1e-9 -- of a token: sums of fractions are not exact

full.allow_writes(redis.call, bucket)
local now = clock.now(redis.call)
local full_at = now - capacity * interval
local paid = math.max(math.min(tonumber(redis.call("HGET", bucket, "paid") or full_at), now), full_at)
local taken = math.min(wanted, math.floor((now - paid) / interval + EXACT))
paid = paid + taken * interval
redis.call("HSET", bucket, "paid", string.format("%.6f", paid))
redis.call("PEXPIRE", bucket, string.format("%.0f", math.max(1, math.ceil(paid - full_at))))
local wait = taken < wanted and math.max(1, math.ceil(paid + (wanted - taken) * interval - now)) or 0
return { taken, wait }
