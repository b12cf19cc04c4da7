"""Open separate connections for administrative calls, so that these calls do not delay the application's."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from motia_redis._transport import failures

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.manager import StateManager
    from motia_redis._transport.router import Router


@asynccontextmanager
async def open_namespace(state: StateManager, subject: str) -> AsyncIterator[tuple[Router, Keyspace]]:
    """Yield a router and the names of the keys. Create the namespace if it does not exist. Errors: as `open_router`."""
    keyspace = await state.connect()
    async with open_router(state, subject) as router:
        yield router, keyspace


@asynccontextmanager
async def open_router(state: StateManager, subject: str) -> AsyncIterator[Router]:
    """Yield a router without creating the namespace. Convert errors of Redis in the block to StateUnavailable."""
    router = await state.open_router(max_connections=4)
    try:
        yield router
    except (RedisError, OSError) as error:
        raise failures.to_unavailable(subject, state.url, error) from error
    finally:
        await router.aclose()
