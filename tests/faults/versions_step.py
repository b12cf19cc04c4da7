"""Two versions of an application in a rolling deploy: the newer one handles another scope, and a topic of another name."""

import os

import redis.asyncio

from motia_redis import queue, state, step

NAMESPACE = os.environ["MOTIA_REDIS_NAMESPACE"]
VERSION = os.environ["DEPLOYED_VERSION"]
# All three are in one partition, so versions share their lanes.
SCOPES = {"1": ["orders", "photos"], "2": ["orders", "carts"]}[VERSION]
TOPIC = {"1": "mail", "2": "post"}[VERSION]


async def note(what: str) -> None:
    """Append the version and what it handled to the log."""
    async with redis.asyncio.Redis.from_url(os.environ["MOTIA_REDIS_URL"]) as client:
        await client.rpush(f"log:{NAMESPACE}:versions", f"{VERSION} {what}")


@step({"name": "Scopes", "triggers": [state(scope=scope) for scope in SCOPES]})
async def scopes(input) -> None:
    await note(f"{input.group_id}/{input.item_id}/{input.new_value}")


@step({"name": "Topics", "triggers": [queue(TOPIC)]})
async def topics(input) -> None:
    await note(input)
