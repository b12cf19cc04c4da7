"""Worker: it goes on after Redis was away, and when connections are cut."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

from motia_redis import StateManager
from motia_redis import state as state_trigger
from motia_redis.errors import StateUnavailable
from tests.support.waiting import until
from tests.support.workers import Recorder, pending, record, working

if TYPE_CHECKING:
    from pathlib import Path

    import redis


async def test_worker_restarts_a_crashed_embedded_redis(tmp_path: Path) -> None:
    recorder = Recorder()
    async with StateManager(f"embedded://{tmp_path / 'data'}") as state, working(state, record(recorder, state_trigger())):
        await state.set("users", "ann", 1)
        await recorder.wait(1)
        router = await state.open_router()
        pid = (await router.execute("any", "INFO", "server"))["process_id"]
        await router.aclose()
        os.kill(pid, signal.SIGKILL)  # loses no write: the kernel has them

        async def answers() -> bool:
            try:
                await state.set("users", "ann", 2)
            except StateUnavailable:
                return False
            return True

        await until(answers, "the server is back")
        await recorder.wait(2)
    assert recorder.inputs[-1].new_value == 2


async def test_worker_continues_after_redis_was_unavailable(tmp_path: Path) -> None:
    from tests.support.servers import RedisServer

    recorder = Recorder()
    with RedisServer(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        async with StateManager(server.url) as state, working(state, record(recorder, state_trigger())):
            await state.set("users", "ann", 1)
            await recorder.wait(1)
            server.kill()
            await asyncio.sleep(0.1)
            server.start()
            await state.set("users", "ann", 2)
            await recorder.wait(2)
    # 1 may come twice: its acknowledgement was on its way.
    assert list(dict.fromkeys(i.new_value for i in recorder.inputs)) == [1, 2]


async def test_cut_connections_make_no_event_run_again(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    """A connection that is cut has no effect on what runs: reading leaves no trace, and nobody else takes the lanes."""
    recorder = Recorder()
    async with working(state, record(recorder, state_trigger(scope="users"))):
        await state.set("users", "first", 0)
        await recorder.wait(1)  # a worker that loses its connection at the start ends
        for batch in range(20):
            await asyncio.gather(*(state.set("users", f"key{number}", batch) for number in range(20)))
            raw.client_kill_filter(_type="normal", skipme=True)
        await recorder.wait(401)

        async def drained() -> bool:
            return await pending(raw, namespace) == 0

        await until(drained, "everything is recorded")
    for number in range(20):
        assert [i.new_value for i in recorder.inputs if i.item_id == f"key{number}"] == list(range(20))
