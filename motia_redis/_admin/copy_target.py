"""Open the namespace that a copy is made in, hold it against other processes, and record how far the copy has come."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from motia_redis._admin.connections import open_router
from motia_redis._ids import random_id
from motia_redis._store import namespaces
from motia_redis._store.copy_marks import CopyMark
from motia_redis._store.keyspace import copying_key, layout_key
from motia_redis._store.moving import Mover
from motia_redis._store.namespaces import StoredLayout
from motia_redis._transport import urls
from motia_redis.errors import LayoutMismatch, SettingsMismatch, StateError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.manager import StateManager
    from motia_redis._store.retries import Attempt
    from motia_redis._store.sessions import Session
    from motia_redis._transport.router import Router

_HOLD = 15.0  # seconds after which another process may go on with the copy of one that has died
_RENEWAL = 3.0  # seconds between two renewals
_POLL = 0.5


class CopyTarget:
    """The namespace that a copy is made in."""

    def __init__(self, state: StateManager, mark: CopyMark) -> None:
        self.state = state
        self.mark = mark  #: as it is recorded
        self._token = f"{random_id(16)} process {os.getpid()} on {socket.gethostname()}"
        self._renewed = 0.0

    async def save(self, mark: CopyMark) -> None:
        """Record how far the copy has come. Raises StateError if another process has taken over."""
        self.check()
        key = layout_key(self.state.namespace)

        async def write(session: Session, _: Attempt) -> None:
            await session.router.execute(key, "HSET", key, *(part for field in mark.encode().items() for part in field))

        await self.state._retries.run("copy", write, operation="copy")
        self.mark = mark

    def check(self) -> None:
        """Raise StateError if another process may have taken over, because this one was stopped or Redis away for too long."""
        if time.monotonic() - self._renewed > _HOLD - _POLL:
            raise StateError(
                f"copy: this process has lost its hold on namespace {self.state.namespace!r}, because it was stopped, or Redis "
                f"could not be reached or had lost its data, for more than {_HOLD:.0f} s: run the command again"
            )

    async def acquire(self, router: Router) -> None:
        """Wait until no other process holds the namespace. Raises StateError for one that lives."""
        key, began = copying_key(self.state.namespace), time.monotonic()
        while True:
            before = time.monotonic()
            if await router.execute(key, "SET", key, self._token, "NX", "PX", int(_HOLD * 1000)):
                self._renewed = before
                return
            if before - began > _HOLD + _POLL:
                holder = (await router.execute(key, "GET", key) or b"").decode(errors="replace").partition(" ")[2]
                raise StateError(
                    f"another process copies into namespace {self.state.namespace!r}: {holder or 'it has ended just now'}"
                )
            await asyncio.sleep(_POLL)

    async def renew(self, router: Router) -> None:
        """Hold the namespace until this task is cancelled, or another process holds it."""
        key = copying_key(self.state.namespace)
        while True:
            await asyncio.sleep(_RENEWAL)
            before = time.monotonic()
            with suppress(RedisError, OSError):
                if await router.execute(key, "GET", key) != self._token.encode():
                    self._renewed = float("-inf")
                    return
                await router.execute(key, "PEXPIRE", key, int(_HOLD * 1000))
                self._renewed = before

    async def release(self, router: Router) -> None:
        """Let other processes hold the namespace."""
        key = copying_key(self.state.namespace)
        if await router.execute(key, "GET", key) == self._token.encode():
            await router.execute(key, "DEL", key)


@asynccontextmanager
async def open_target(source: StateManager, target: StateManager, *, again: bool) -> AsyncIterator[CopyTarget]:
    """Yield the namespace that the copy is made in. Create it if there is none, with the source's settings.

    A new one has the layout that the manager requires, else that of the source. `again`: the copy begins again, and repairs what
    is there. Raises StateError if the source holds nothing, the target something else than a copy of it, or another process
    copies; LayoutMismatch, SettingsMismatch, StateUnavailable.
    """
    names, settings = await source.connect(), await source.settings()
    async with open_router(source, "copy") as router:
        if not await _holds_anything(router, names):
            raise StateError(f"copy: {_describe(source)} holds nothing")
    layout = target._sessions.layout or names.layout
    if _describe(source) == _describe(target):
        raise StateError(f"copy: {_describe(source)} cannot be copied into itself: give another Redis or namespace")
    described = f"{_describe(source)} with a layout of {names.layout.partitions}x{names.layout.lanes}"
    start = (await Mover(source, "copy").ends()).encode()
    target._sessions.in_copy = True
    async with open_router(target, "copy") as router:
        new = CopyMark(described, start)
        stored, mark = await namespaces.create_copy(router, target.namespace, StoredLayout(layout, settings), new)
        subject = f"copy: {_describe(target)}"
        if target._sessions.layout not in (None, stored.layout):
            raise LayoutMismatch(
                f"{subject} exists with {stored.layout}, and {layout} is asked for: choose another namespace, or delete its keys"
            )
        place = CopyTarget(target, mark or new)
        target_names = await target.connect()
        await place.acquire(router)
        renewing = asyncio.create_task(place.renew(router))
        try:
            if mark is None:
                if await _holds_anything(router, target_names):
                    raise StateError(f"{subject} is not empty, and no copy of another namespace: choose another namespace")
                if stored.settings != settings:
                    raise SettingsMismatch(
                        f"{subject} has other settings than {_describe(source)}: make them the same with `motia-redis settings`"
                    )
            elif mark.source != described:
                raise StateError(f"{subject} is a copy of {mark.source}, not of {described}: choose another namespace")
            if mark is None:
                await place.save(new)
            elif again and place.mark.is_finished:
                raise StateError(f"{subject} is a copy that is finished, and may be in use: it cannot be copied again")
            elif again:
                await place.save(CopyMark(described, start, "repair"))
            yield place
        finally:
            renewing.cancel()
            await asyncio.wait([renewing])
            await place.release(router)


async def open_copy(target: StateManager) -> None:
    """Connect to a copy, finished or not. Raises StateError if there is none, LayoutMismatch, StateUnavailable."""
    key = layout_key(target.namespace)
    async with open_router(target, "copy") as router:
        if not await router.execute(key, "EXISTS", key):
            raise StateError(f"copy: there is no {_describe(target)}")
    target._sessions.in_copy = True
    await target.connect()


def _describe(state: StateManager) -> str:
    return f"namespace {state.namespace!r} of {urls.redact(state.url)}"


async def _holds_anything(router: Router, names: Keyspace) -> bool:
    """Return whether a namespace holds values, messages, or groups and dead letters of steps. Cost: one round trip."""
    calls: list[tuple[bytes, tuple[str, bytes]]] = []
    for partition in range(names.layout.partitions):
        leases = names.leases(names.events(partition, 0))
        calls += [(key, ("SCARD", key)) for key in (names.scopes(partition), names.topics(partition))]
        calls += [(key, ("HLEN", key)) for key in (names.delayed(partition), leases)]
    return any(await router.gather(calls))
