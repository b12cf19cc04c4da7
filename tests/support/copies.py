"""Look at two namespaces as a copy must make them the same."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING

from motia_redis import Layout, StateManager
from motia_redis.admin import copy_changes, finish_copy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import redis

    from motia_redis.admin import FinishedCopy

WIDE = Layout(64, 4)  # another layout than the default


def stored(raw: redis.Redis, namespace: str) -> dict[tuple[bytes, bytes], bytes]:
    """Return all stored texts by scope and key."""
    found = {}
    for name in raw.scan_iter(f"{{{namespace}:*}}:state:*"):
        for key, text in raw.hgetall(name).items():
            found[name.partition(b"}:state:")[2], key] = text
    return found


def dumped(raw: redis.Redis, namespace: str) -> dict[bytes, bytes | None]:
    """Return all keys of a namespace with their contents."""
    return {name: raw.dump(name) for pattern in (f"{namespace}:*", f"{{{namespace}:*") for name in raw.scan_iter(pattern)}


@contextlib.asynccontextmanager
async def target(url: str, namespace: str, layout: Layout | None = WIDE) -> AsyncIterator[StateManager]:
    """Yield a manager for a copy that has not connected, and close it."""
    state = StateManager(url, namespace=namespace, layout=layout)
    try:
        yield state
    finally:
        await state.close()


async def copy_once(source: StateManager, url: str, namespace: str, layout: Layout | None = WIDE, *, again: bool = False) -> None:
    async with target(url, namespace, layout) as manager:
        await copy_changes(source, manager, again=again)


async def finish(
    source: StateManager, url: str, namespace: str, layout: Layout | None = WIDE, *, again: bool = False
) -> FinishedCopy:
    async with target(url, namespace, layout) as manager:
        return await finish_copy(source, manager, again=again)


class Writers:
    """Change keys in all ways, a few writers at once, within `async with`."""

    def __init__(self, state: StateManager, seed: int, writers: int = 4) -> None:
        self._state = state
        self._random = [random.Random(seed * 100 + number) for number in range(writers)]
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.changes = 0

    async def __aenter__(self) -> Writers:
        self._tasks = [asyncio.create_task(self._write(rnd)) for rnd in self._random]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    async def _write(self, rnd: random.Random) -> None:
        state = self._state
        while not self._stopping.is_set():
            scope, key = f"scope{rnd.randrange(30)}", f"key{rnd.randrange(40)}"
            match rnd.randrange(6):
                case 0 | 1:
                    await state.set(scope, key, {"n": rnd.random()})
                case 2:
                    await state.update(scope, key, [{"op": "append", "path": "/list", "value": rnd.randrange(100)}])
                case 3:
                    await state.delete(scope, key)
                case 4:
                    await state.set(scope, key, {"for": "a while"}, ttl=rnd.choice([0.05, 1000]))
                case 5:
                    async with state.transaction() as tx:
                        for number in range(5):
                            tx.set(f"{{tag}}{number % 2}", f"key{number}", rnd.random())
            self.changes += 1
