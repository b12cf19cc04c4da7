"""An application whose cron step records the times that it handles."""

import asyncio
import os

import redis.asyncio

from motia_redis import CronTriggerInput, FlowContext, cron, step
from motia_redis._worker import scheduling

NAMESPACE = os.environ["MOTIA_REDIS_NAMESPACE"]
scheduling._LOOK = 0.1  # the tests let time pass quickly


@step({"name": "Tick", "triggers": [cron("* * * * *")], "backoff": 0.05})
async def tick(input: CronTriggerInput, ctx: FlowContext) -> None:
    line = f"{int(input.scheduled_at.timestamp())} {os.getpid()} {ctx.trigger.attempt}"
    while True:
        try:
            async with redis.asyncio.Redis.from_url(os.environ["MOTIA_REDIS_URL"]) as client:
                await client.rpush(f"log:{NAMESPACE}:cron", line)
        except redis.exceptions.ConnectionError:
            await asyncio.sleep(0.05)
        else:
            return
