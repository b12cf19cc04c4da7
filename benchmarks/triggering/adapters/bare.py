"""The bare loop: `XREADGROUP COUNT 100` and one `XACK` per batch with redis-py, without a library.

With the option `decode`, events also have the old value, and both values are decoded, as a handler of changes needs them.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import orjson
import redis

from benchmarks.triggering import job as jobs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from benchmarks.triggering.job import Job, Value
    from benchmarks.triggering.meter import Meter

STREAM, GROUP, VALUES = "bare:events", "bare", "bare:values"
BATCH = 100


def work(job: Job, meter: Meter) -> None:
    """Read, count and acknowledge for ever. Events are decoded only with `decode` or to measure latency."""
    client: Any = redis.Redis.from_url(job.url)
    create_group(client)
    decode = job.options.get("decode") or job.options.get("stamped")
    handled = 0
    while True:
        for _, entries in client.xreadgroup(GROUP, "worker", {STREAM: ">"}, count=BATCH, block=5000) or ():
            for _, fields in entries:
                if decode:
                    value = orjson.loads(fields[b"new"])
                    if b"old" in fields:
                        orjson.loads(fields[b"old"])
                    meter.handle(value)
                else:
                    meter.count(handled)
                    handled += 1
            client.xack(STREAM, GROUP, *[entry_id for entry_id, _ in entries])


@asynccontextmanager
async def sending(job: Job) -> AsyncIterator[Callable[[Value], Awaitable[Any]]]:
    """Create the group and yield a function that calls `XADD`."""
    client: Any = redis.Redis.from_url(job.url)
    create_group(client)

    async def send(value: Value) -> None:
        text = jobs.encode(value)
        fields = {"key": jobs.key(value["n"]), "new": text}
        client.xadd(STREAM, fields | {"old": text} if job.options.get("decode") else fields)

    yield send
    client.close()


def create_group(client: Any) -> None:
    """Create the stream and its group if they do not exist."""
    try:
        client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    except redis.ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise


def write_state(client: Any, events: int) -> None:
    """Write the minimum of `StateManager.set`, pipelined: the value to a hash and the event to a stream."""
    create_group(client)
    for begin in range(0, events, BATCH):
        pipeline = client.pipeline(transaction=False)
        for number in range(begin, min(begin + BATCH, events)):
            text = jobs.encode(jobs.value(number))
            pipeline.hset(VALUES, jobs.key(number), text)
            pipeline.xadd(STREAM, {"key": jobs.key(number), "new": text})
        pipeline.execute()
