"""Handover of lanes: entries of a read in progress are pending before the next holder reads."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from motia_redis import state as state_trigger
from motia_redis._transport.router import Router
from tests.support.waiting import until
from tests.support.workers import Recorder, record, working

if TYPE_CHECKING:
    import pytest

    from motia_redis import StateManager

SETTLED = 1.5  # seconds, some heartbeats, in which lanes move to a worker that comes


class Gates:
    """Delay reads of new entries before they are sent, from the first read of several lanes on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held: list[asyncio.Event] = []
        self.open = True
        original = Router.gather

        async def gather(router: Router, calls: Any, **options: Any) -> list[Any]:
            command = calls[0][1] if calls else ()
            several = len(command) > 7 + 2 * 4
            if not self.open and command and command[0] == "XREADGROUP" and command[-1] == ">" and (several or self.held):
                gate = asyncio.Event()
                self.held.append(gate)
                await gate.wait()
            return await original(router, calls, **options)

        monkeypatch.setattr(Router, "gather", gather)


async def test_read_in_progress_ends_before_its_lanes_are_released(state: StateManager, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, gates = Recorder(), Gates(monkeypatch)
    steps = record(recorder, state_trigger())

    async def write(batch: int) -> None:
        await asyncio.gather(*(state.set(f"scope{number % 40}", f"key{number}", batch) for number in range(400)))

    async def all_handled() -> bool:
        return {(change.item_id, change.new_value) for change in recorder.inputs} >= {
            (f"key{number}", batch) for number in range(400) for batch in (1, 2)
        }

    async def is_held() -> bool:
        return bool(gates.held)

    async with working(state, steps):
        await state.set("scope0", "first", 0)
        await recorder.wait(1)
        gates.open = False
        await write(1)
        await until(is_held, "a read is held up")
        async with working(state, steps):
            await asyncio.sleep(SETTLED)
            await write(2)
            gates.held[0].set()
            await asyncio.sleep(0.3)
            gates.open = True
            for gate in gates.held:
                gate.set()
            await until(all_handled, "every event is handled")
