"""The application of the fault tests: its handlers record the events that they receive, in order."""

import asyncio
import os
import time

import redis.asyncio

from motia_redis import FlowContext, StateTriggerInput, queue, state, step

NAMESPACE = os.environ["MOTIA_REDIS_NAMESPACE"]
PAUSE = float(os.environ.get("RECORDER_PAUSE", "0"))
_clients: dict = {}


def client() -> redis.asyncio.Redis:
    """Return a client of redis-py for this event loop. The library's own retries do not apply to it."""
    loop = asyncio.get_running_loop()
    if loop not in _clients:
        _clients[loop] = redis.asyncio.Redis.from_url(os.environ["MOTIA_REDIS_URL"])
    return _clients[loop]


async def record_line(log: str, input: StateTriggerInput, ctx: FlowContext) -> None:
    """Append one line to the log: key, number, revision, process, attempt, time. Retries while Redis is down."""
    line = f"{input.item_id} {input.new_value['n']} {input.revision} {os.getpid()} {ctx.trigger.attempt} {time.time():.3f}"
    while True:
        try:
            await client().rpush(f"log:{NAMESPACE}:{log}", line)
        except redis.exceptions.ConnectionError:
            await asyncio.sleep(0.05)
        else:
            return


@step({"name": "Record", "triggers": [state(scope="load")], "backoff": 0.1})
async def record(input: StateTriggerInput, ctx: FlowContext) -> None:
    if PAUSE:
        await asyncio.sleep(PAUSE)
    await record_line("record", input, ctx)


# Applies an effect only if its revision is newer than the last applied one. This guards the effect against a worker that was
# paused, lost its leases and goes on.
APPLY_IF_NEWER = """
local known = redis.call("HGET", KEYS[1], ARGV[1])
local function order(id) local a, b = string.match(id, "(%d+)-(%d+)") return tonumber(a), tonumber(b) end
if known then
  local a, b = order(known)
  local c, d = order(ARGV[2])
  if c < a or (c == a and d <= b) then return 0 end
end
redis.call("HSET", KEYS[1], ARGV[1], ARGV[2])
redis.call("RPUSH", KEYS[2], ARGV[1] .. " " .. ARGV[3])
return 1
"""


@step({"name": "Apply", "triggers": [state(scope="load")]})
async def apply(input: StateTriggerInput) -> None:
    keys = [f"applied:{NAMESPACE}", f"log:{NAMESPACE}:applied"]
    await client().eval(APPLY_IF_NEWER, 2, *keys, input.item_id, input.revision, str(input.new_value["n"]))


@step({"name": "Fail", "triggers": [state(scope="poison", key="fail")], "max_attempts": 3, "backoff": 0.05})
async def fail(input: StateTriggerInput, ctx: FlowContext) -> None:
    await record_line("fail", input, ctx)
    raise ValueError("always")


@step({"name": "Hang", "triggers": [state(scope="poison", key="hang")], "max_attempts": 2, "backoff": 0.05, "timeout": 0.3})
async def hang(input: StateTriggerInput, ctx: FlowContext) -> None:
    await record_line("hang", input, ctx)
    await asyncio.sleep(3600)


@step({"name": "Exit", "triggers": [state(scope="poison", key="exit")], "max_attempts": 2})
async def leave(input: StateTriggerInput, ctx: FlowContext) -> None:
    await record_line("exit", input, ctx)
    os._exit(9)


@step({"name": "Block", "triggers": [state(scope="block")]})
def block(input: StateTriggerInput) -> None:
    time.sleep(input.new_value["seconds"])
    with redis.Redis.from_url(os.environ["MOTIA_REDIS_URL"]) as connection:
        connection.rpush(f"log:{NAMESPACE}:block", f"{input.item_id} {input.revision}")


@step({"name": "Level1", "triggers": [state(scope="level0")]})
async def level1(input: StateTriggerInput, ctx: FlowContext) -> None:
    await ctx.state.set("level1", input.item_id, input.new_value)


@step({"name": "Level2", "triggers": [state(scope="level1")]})
async def level2(input: StateTriggerInput, ctx: FlowContext) -> None:
    await ctx.state.set("level2", input.item_id, input.new_value)


@step({"name": "Level3", "triggers": [state(scope="level2")]})
async def level3(input: StateTriggerInput, ctx: FlowContext) -> None:
    await record_line("level3", input, ctx)


@step({"name": "Expired", "triggers": [state(scope="expiring", condition=lambda change: change.reason == "expired")]})
async def expired(input: StateTriggerInput) -> None:
    while True:
        try:
            await client().rpush(f"log:{NAMESPACE}:expired", f"{input.item_id} {input.old_value['n']}")
        except redis.exceptions.ConnectionError:
            await asyncio.sleep(0.05)
        else:
            return


@step({"name": "Due", "triggers": [queue("due")]})
async def due(input: int, ctx: FlowContext) -> None:
    while True:
        try:
            await client().rpush(f"log:{NAMESPACE}:due", f"{ctx.trigger.message_id} {input}")
        except redis.exceptions.ConnectionError:
            await asyncio.sleep(0.05)
        else:
            return
