"""`async with Worker(...)`: a worker inside of another program, without signals and logging of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import StateManager, Worker
from motia_redis import state as state_trigger
from motia_redis._steps.application import Application
from motia_redis.errors import StateError, StateUnavailable
from tests.support.waiting import until, until_holds, within_deadline
from tests.support.workers import Recorder, pending, record

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from motia_redis._steps.definitions import Step


def application(handler: Any) -> Application:
    step: Step = record(handler, state_trigger(scope="users"))
    return Application((step,))


async def test_changes_of_the_block_are_handled_and_its_end_waits_for_handlers(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    began, ended = asyncio.Event(), False

    async def slow(input: Any) -> None:
        nonlocal ended
        began.set()
        await asyncio.sleep(0.3)
        ended = True

    async with Worker(application(slow), state):
        await state.set("users", "ann", 1)
        await within_deadline(began.wait())
        assert not ended
    assert ended
    assert await pending(raw, namespace) == 0


async def test_handler_that_outlives_the_grace_time_is_cancelled_and_handled_by_the_next_worker(
    state: StateManager, caplog: pytest.LogCaptureFixture
) -> None:
    began, cancelled, recorder = asyncio.Event(), asyncio.Event(), Recorder()

    async def endless(input: Any) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with Worker(application(endless), state, lease=0.5, grace=0.2):
        await state.set("users", "ann", 1)
        await within_deadline(began.wait())
    assert cancelled.is_set()
    assert "the grace time of 0.2 s is over: ending without step Record (scope users key ann)" in caplog.messages
    async with Worker(application(recorder), state, lease=0.5):
        await recorder.wait(1)


async def test_error_of_the_block_is_raised_and_the_worker_stops(state: StateManager) -> None:
    with pytest.raises(LookupError, match="of the block"):
        async with Worker(application(Recorder()), state):
            raise LookupError("of the block")
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "motia-redis-worker"] == []


async def test_cancelled_block_stops_the_worker(state: StateManager) -> None:
    began = asyncio.Event()

    async def block() -> None:
        async with Worker(application(Recorder()), state):
            began.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(block())
    await within_deadline(began.wait())
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await within_deadline(task)
    assert task.cancelled()
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "motia-redis-worker"] == []


async def test_worker_that_fails_is_logged_at_once_and_raised_at_the_end(
    state: StateManager, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: Worker) -> None:
        raise OSError("no more")

    monkeypatch.setattr(Worker, "run", fail)
    worker = Worker(application(Recorder()), state)
    await worker.__aenter__()
    message = "the worker has ended by an error, and handles no more events"
    await until_holds(lambda: message in caplog.messages, "the log says so")
    with pytest.raises(OSError, match="no more"):
        await worker.__aexit__(None, None, None)


async def test_entering_raises_if_redis_is_away(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        state = StateManager(f"unix://{tmp_path}/none.sock")
        stack.push_async_callback(state.close)
        with pytest.raises(StateUnavailable):
            await stack.enter_async_context(Worker(application(Recorder()), state))


async def test_worker_can_be_entered_once(state: StateManager) -> None:
    worker = Worker(application(Recorder()), state)
    async with worker:
        pass
    with pytest.raises(StateError, match="only once"):
        await worker.__aenter__()


async def test_no_handler_thread_is_left(state: StateManager) -> None:
    done = threading.Event()

    def handler(input: Any) -> None:
        done.set()

    async with Worker(application(handler), state):
        await state.set("users", "ann", 1)
        await asyncio.to_thread(done.wait, 20)
    assert done.is_set()

    async def are_gone() -> bool:
        return not [thread for thread in threading.enumerate() if thread.name.startswith("motia-redis-handler")]

    await until(are_gone, "the threads of handlers have ended")
