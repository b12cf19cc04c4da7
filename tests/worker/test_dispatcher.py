"""Dispatcher: handlers that share tasks do not affect each other."""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

from motia_redis import StateManager, step
from motia_redis import state as state_trigger
from motia_redis._scripts.delivery import LaneKeys, Taken
from motia_redis._store.keyspace import Keyspace, Layout
from motia_redis._worker import subscriptions
from motia_redis._worker.attempts import Outcome
from motia_redis._worker.dispatcher import Dispatcher
from motia_redis._worker.entries import StreamEntry
from motia_redis._worker.lanes import Delivery, Lane, Lease, lane_name
from motia_redis._worker.subscriptions import Subscription
from tests.support.waiting import until
from tests.support.workers import pending, working

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    import pytest
    import redis

    from motia_redis import Worker

_user: ContextVar[str | None] = ContextVar("user", default=None)


def one_at_a_time(state: StateManager, handler: Callable[..., Any], **config: Any) -> AbstractAsyncContextManager[list[Worker]]:
    """Run a step in a worker with a single handler task."""
    config = {"name": "Step", "triggers": [state_trigger(scope="users")], "backoff": 0.01, **config}
    return working(state, step(config).handle(handler), concurrency=1)


async def wait_for(seen: list[Any], count: int) -> None:
    async def reached() -> bool:
        return len(seen) >= count

    await until(reached, f"{count} are handled, not {seen}")


async def test_context_variables_of_a_handler_do_not_reach_other_handlers(state: StateManager) -> None:
    found: list[str | None] = []

    async def handler(input: Any) -> None:
        found.append(_user.get())
        token = _user.set(input.item_id)
        await asyncio.sleep(0)
        assert _user.get() == input.item_id
        if input.item_id == "ann":
            _user.reset(token)

    async with one_at_a_time(state, handler):
        await asyncio.gather(*(state.set("users", key, 1) for key in ("ann", "bob", "eve")))
        await wait_for(found, 3)
    assert found == [None] * 3


async def test_swallowed_cancellation_does_not_reach_the_next_handler(state: StateManager) -> None:
    handled: list[str] = []
    gone = asyncio.get_running_loop().create_future()
    gone.cancel()

    async def handler(input: Any, ctx: Any) -> None:
        if input.item_id == "swallows":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        elif ctx.trigger.attempt == 1:
            await gone
        handled.append(input.item_id)

    async with one_at_a_time(state, handler):
        for key in ("swallows", "awaits", "last"):
            await state.set("users", key, 1)
        await wait_for(handled, 3)
    assert sorted(handled) == ["awaits", "last", "swallows"]


async def test_dead_letters_that_cannot_be_written_delay_only_their_keys(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    handled: list[str] = []

    async def handler(input: Any) -> None:
        if input.item_id.startswith("bad"):
            raise RuntimeError
        handled.append(input.item_id)

    keyspace = Keyspace(namespace, Layout())
    dead = keyspace.dead(keyspace.state_keys(b"users", b"bad1").events, "Step")
    raw.set(dead, "another type")
    async with one_at_a_time(state, handler, max_attempts=1):
        for key in ("bad1", "bad2", "good1", "good2"):
            await state.set("users", key, 1)
        await wait_for(handled, 2)
        raw.delete(dead)

        async def are_dead() -> bool:
            return raw.xlen(dead) == 2

        await until(are_dead, "both are dead letters in the end")


async def test_reading_resumes_after_a_key_filled_the_waiting_limit(
    state: StateManager, raw: redis.Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "_PARKED", 20)
    monkeypatch.setattr(subscriptions, "_ENTRIES", 40)
    monkeypatch.setattr(subscriptions, "_REFILL", 20)
    handled: list[int] = []
    recovered = asyncio.Event()
    failures = 0

    async def handler(input: Any) -> None:
        nonlocal failures
        if not recovered.is_set():
            failures += 1
            raise RuntimeError
        handled.append(input.new_value)

    trigger = state_trigger(scope="users", key="ann")
    async with one_at_a_time(state, handler, triggers=[trigger], max_attempts=1000, backoff=0.2, max_backoff=0.2):
        await asyncio.gather(*(state.set("users", "ann", number) for number in range(300)))

        async def is_full() -> bool:
            return failures >= 2 and await pending(raw, namespace) >= 20

        await until(is_full, "the entries that wait for the key reach the limit")
        recovered.set()
        await wait_for(handled, 300)
    assert handled == list(range(300))


class CountingAttempts:
    """Attempts that note which entries run, and how many at once."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.running = self.most = 0

    async def make(self, delivery: Delivery, _: Any) -> Outcome:
        self.runs.append(delivery.id)
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.01)
        self.running -= 1
        return Outcome.FINISHED


async def test_key_whose_lane_is_lost_and_taken_again_at_once_runs_one_entry_at_a_time() -> None:
    keyspace = Keyspace("motia", Layout())
    stream = keyspace.state_keys(b"users", b"ann").events
    subscription = Subscription(step({"name": "Step", "triggers": [state_trigger()]}).handle(lambda _: None), keyspace)
    lease = Lease(keyspace.leases(stream))
    lease.renewed(time.monotonic(), 60)
    lane = Lane(LaneKeys(lease.leases, stream, b"entries", lane_name("Step", stream), "Step"), subscription, lease)
    attempts = CountingAttempts()
    dispatcher = Dispatcher(cast("Any", attempts), concurrency=4, on_progress=lambda _: None)

    def take(tenure: str) -> None:
        lane.take(tenure, Taken(holder_crashed=False, mark="0-0", taken_at=0, entry_bytes=0, known={}, identity="Record"))
        for number in (1, 2):
            fields = {b"type": b"state:created", b"scope": b"users", b"key": b"ann"}
            entry = StreamEntry(stream, f"{number}-0", fields)
            dispatcher.submit(Delivery(lane, entry.id, entry, 10, tenure=tenure))

    take("1")
    lane.end()
    dispatcher.drop(lane)
    take("2")

    async def done() -> bool:
        return not subscription.load.entries

    await until(done, "both are finished")
    assert attempts.runs == ["1-0", "2-0"]
    assert attempts.most == 1
