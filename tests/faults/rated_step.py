"""An application whose step has a rate and records when its handlers begin, by the clock that all processes share."""

import asyncio
import os
import time

import redis.asyncio

from motia_redis import state, step

NAMESPACE = os.environ["MOTIA_REDIS_NAMESPACE"]
_clients: list = []


@step({"name": "Rated", "triggers": [state(scope="load")], "rate": "40/s", "concurrency": 20})
async def rated(input, ctx) -> None:
    began = time.monotonic()
    if not _clients:
        _clients.append(redis.asyncio.Redis.from_url(os.environ["MOTIA_REDIS_URL"]))
    await _clients[0].rpush(f"log:{NAMESPACE}:record", f"{input.item_id} {input.new_value['n']} {began} {os.getpid()}")
    await asyncio.sleep(0.02)
