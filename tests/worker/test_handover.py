"""Handover of lanes: by key, at once, and without an effect of reads that are on their way."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from motia_redis import Worker, step
from motia_redis import state as state_trigger
from motia_redis._steps.application import Application
from motia_redis._transport.router import Router
from tests.support.waiting import until
from tests.support.workers import Recorder, pending, record, working

if TYPE_CHECKING:
    import pytest
    import redis

    from motia_redis import StateManager
    from motia_redis._steps.inputs import StateTriggerInput

SETTLED = 1.5  # seconds, some heartbeats, in which lanes move to a worker that comes


class Gates:
    """Delay replies of reads of new entries, from the first read of several lanes on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held: list[asyncio.Event] = []
        self.open = True
        original = Router.gather

        async def gather(router: Router, calls: Any, **options: Any) -> list[Any]:
            replies = await original(router, calls, **options)
            if not self.open and not self.held and calls and calls[0][1][0] == "XREAD":
                gate = asyncio.Event()
                self.held.append(gate)
                await gate.wait()
            return replies

        monkeypatch.setattr(Router, "gather", gather)


async def test_read_that_arrives_when_its_lanes_have_moved_has_no_effect(
    state: StateManager, raw: redis.Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, gates = Recorder(), Gates(monkeypatch)
    steps = record(recorder, state_trigger())

    async def write(batch: int) -> None:
        await asyncio.gather(*(state.set(f"scope{number % 40}", f"key{number}", batch) for number in range(400)))

    async def is_held() -> bool:
        return bool(gates.held)

    async def drained() -> bool:
        return await pending(raw, namespace) == 0

    async with working(state, steps):
        await state.set("scope0", "first", 0)
        await recorder.wait(1)
        gates.open = False
        await write(1)
        await until(is_held, "a read is held up")
        async with working(state, steps):
            await asyncio.sleep(SETTLED)
            await write(2)
            gates.open = True
            gates.held[0].set()
            await until(drained, "every event is handled")
    for number in range(400):
        assert [change.new_value for change in recorder.inputs if change.item_id == f"key{number}"] == [1, 2]


class SlowKeys:
    """A handler that waits for `go` at keys that begin with "slow", and notes begins and ends."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.notes: list[tuple[str, str, Any]] = []

    async def __call__(self, input: StateTriggerInput) -> None:
        self.notes.append(("begin", input.item_id, input.new_value))
        if input.item_id.startswith("slow"):
            await self.go.wait()
            if input.new_value == "fails":
                self.notes.append(("end", input.item_id, input.new_value))
                raise ValueError
        self.notes.append(("end", input.item_id, input.new_value))

    def of(self, key: str) -> list[tuple[str, Any]]:
        return [(what, value) for what, name, value in self.notes if name == key]


async def test_lane_moves_at_once_and_only_the_key_of_a_running_handler_waits(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    handler = SlowKeys()
    steps = step({"name": "Step", "triggers": [state_trigger(scope="users")], "max_attempts": 2, "backoff": 0.1}).handle(handler)
    first, second = (Worker(Application((steps,)), state) for _ in range(2))

    async def all_begun() -> bool:
        return len(handler.notes) == 16

    async def quick_done() -> bool:
        return sum(what == "end" and key.startswith("quick") for what, key, _ in handler.notes) == 50

    async def drained() -> bool:
        return await pending(raw, namespace) == 0

    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(first.run())
        await asyncio.sleep(1)
        for number in range(16):
            await state.set("users", f"slow{number}", "fails" if number == 3 else 0)
        await until(all_begun, "the slow handlers run")
        tasks.create_task(second.run())
        first.stop()
        for number in range(16):
            await state.set("users", f"slow{number}", 1)
        for number in range(50):
            await state.set("users", f"quick{number}", 0)
        await until(quick_done, "the other keys go on, on the second worker")
        assert sum(what == "begin" and key.startswith("slow") for what, key, _ in handler.notes) == 16
        handler.go.set()
        await running
        await until(drained, "every event is handled")
        second.stop()
    for number in range(16):
        if number != 3:
            assert handler.of(f"slow{number}") == [("begin", 0), ("end", 0), ("begin", 1), ("end", 1)]
    assert handler.of("slow3") == [
        *[("begin", "fails"), ("end", "fails")] * 2,
        ("begin", 1),
        ("end", 1),
    ], "the second attempt is made by the next holder, and the key stays in order"
