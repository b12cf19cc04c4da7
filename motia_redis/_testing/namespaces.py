"""A namespace for one test: its manager, the variables that the global manager reads, and its end."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from motia_redis._ids import random_id
from motia_redis._steps.ambient import stateManager
from motia_redis._store.keyspace import Layout
from motia_redis._store.limits import Retention
from motia_redis._store.manager import StateManager
from motia_redis._sync import loop_thread
from motia_redis._sync import manager as sync

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

_T = TypeVar("_T")

#: One partition and one lane: a worker starts faster, and all changes have one order.
_LAYOUT = Layout(partitions=1, lanes=1)
#: Nothing is trimmed during a test: what was handled can be handled again.
_RETENTION = Retention(entries=1_000_000, seconds=86_400.0)


def new_state(url: str) -> StateManager:
    """Return a manager with a namespace of its own. It connects on first use."""
    return StateManager(url, namespace=f"test-{random_id(16)}", layout=_LAYOUT, retention=_RETENTION)


@contextmanager
def environment(state: StateManager) -> Iterator[None]:
    """Let managers without URL and namespace, such as the global one, use those of `state` inside of the block."""
    given = {"MOTIA_REDIS_URL": state.url, "MOTIA_REDIS_NAMESPACE": state.namespace}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


async def renew_global_state() -> None:
    """Let the global manager forget the namespace of an earlier test in this event loop."""
    plain: StateManager = _global()
    session = plain._sessions.current()
    if session is not None and session.keyspace.namespace != plain.namespace:
        await plain.close()


async def remove(state: StateManager) -> None:
    """Delete all keys of the namespace. Cost: two round trips."""
    keyspace = await state.connect()
    router = await state.open_router()
    try:
        found: list[bytes] = []
        for place, pattern in ((keyspace.scopes(0), f"{{{state.namespace}:0}}:*"), (keyspace.workers, f"{state.namespace}:*")):
            found += await router.execute(place, "KEYS", pattern)
        await router.gather([(key, ("UNLINK", key)) for key in found])
    finally:
        await router.aclose()


async def end(state: StateManager) -> None:
    """Delete the namespace, and close the connections of this event loop and of the threads."""
    await remove(state)
    await state.close()
    await _global().close()
    if loop_thread.running() is not None:
        await asyncio.to_thread(_close_threads, state)


def end_from_outside(state: StateManager) -> None:
    """Do what `end` does, where no event loop runs: also for the event loops of the test, if they are not closed yet."""
    run_apart(remove(state))
    for manager in (state, _global()):
        for loop in manager._sessions.loops():
            if not loop.is_running():
                loop.run_until_complete(manager.close())
    if loop_thread.running() is not None:
        _close_threads(state)


def _close_threads(state: StateManager) -> None:
    for manager in (sync.StateManager.of(state), sync.StateManager.of(_global()), sync.stateManager):
        manager.close()


def _global() -> StateManager:
    """Return the global manager, whose calls answer awaitables."""
    manager: Any = stateManager
    plain: StateManager = manager.plain
    return plain


def run_apart(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine in an event loop of its own, in another thread: one may run in this thread."""
    result: list[_T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            result.append(asyncio.run(coroutine))
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=run, name="motia_redis.testing")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return result[0]
