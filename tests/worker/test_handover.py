"""Handover of lanes: by key, at once, and without an effect of reads that are on their way."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import Worker, step
from motia_redis import state as state_trigger
from motia_redis._steps.application import Application
from motia_redis._transport.router import Router
from motia_redis._worker.reader import LaneGroup
from tests.support.waiting import DEADLINE, until, until_holds, within_deadline
from tests.support.workers import Recorder, pending, record, working

if TYPE_CHECKING:
    import redis

    from motia_redis import StateManager
    from motia_redis._steps.inputs import StateTriggerInput

SETTLED = 1.5  # seconds, some heartbeats, in which lanes would move to a worker that comes


def are_shared(raw: redis.Redis, namespace: str, workers: int) -> bool:
    """Return whether so many workers hold the lanes, and each lane has a holder."""
    fields = [item for key in raw.scan_iter(f"{{{namespace}:*:leases") for item in raw.hgetall(key).items()]
    holders = [worker for name, worker in fields if name.startswith(b"lane ")]
    return b"" not in holders and len(set(holders)) == workers


class Gate:
    """Delay the replies of one read, from `close` on: of one that waits for entries, or of one that fetches them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, waiting: bool) -> None:
        self.holds = False
        self._is_closed = False
        self._opened = asyncio.Event()
        name = "execute_blocking" if waiting else "gather"
        original = getattr(Router, name)

        async def read(router: Router, *arguments: Any, **options: Any) -> Any:
            replies = await original(router, *arguments, **options)
            command = arguments[1] if waiting else arguments[0][0][1][0] if arguments[0] else ""
            if command == "XREAD" and any(replies) and self._is_closed and not self.holds:
                self.holds = True
                await self._opened.wait()
            return replies

        monkeypatch.setattr(Router, name, read)

    def close(self) -> None:
        self._is_closed = True

    def open(self) -> None:
        self._opened.set()


@pytest.mark.parametrize("waiting", [True, False], ids=["waits", "fetches"])
async def test_read_that_arrives_when_its_lanes_have_moved_has_no_effect(
    state: StateManager, raw: redis.Redis, namespace: str, monkeypatch: pytest.MonkeyPatch, waiting: bool
) -> None:
    recorder, gate = Recorder(), Gate(monkeypatch, waiting=waiting)
    steps = record(recorder, state_trigger())

    async def write(batch: int) -> None:
        await asyncio.gather(*(state.set(f"scope{number % 40}", f"key{number}", batch) for number in range(400)))

    async def drained() -> bool:
        return await pending(raw, namespace) == 0

    async with working(state, steps):
        await state.set("scope0", "first", 0)
        await recorder.wait(1)
    gate.close()
    blocked = raw.info("clients")["blocked_clients"]
    if not waiting:  # what is there when a worker takes its lanes is fetched
        await write(1)
    async with working(state, steps):
        if waiting:
            await until_holds(lambda: raw.info("clients")["blocked_clients"] > blocked, "the worker waits for entries")
            await write(1)
        await until_holds(lambda: gate.holds, "a read is held up")
        async with working(state, steps):
            await until_holds(lambda: are_shared(raw, namespace, 2), "the second worker has taken lanes")
            await write(2)
            gate.open()
            await until(drained, "every event is handled")
    for number in range(400):
        assert [change.new_value for change in recorder.inputs if change.item_id == f"key{number}"] == [1, 2]


async def test_entry_that_was_read_and_not_handed_on_is_read_by_the_next_holder(
    state: StateManager, raw: redis.Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While entries wait to be handed on, the progress of earlier ones is recorded: only up to those."""
    handler, arrived = SlowKeys(), asyncio.Event()
    steps = step({"name": "Step", "triggers": [state_trigger(scope="users")]}).handle(handler)

    def never(group: LaneGroup, entries: Any) -> int:
        arrived.set()
        return 0

    async with working(state, steps):
        await state.set("users", "slow", 0)
        await until_holds(lambda: bool(handler.of("slow")), "the handler runs")
        monkeypatch.setattr(LaneGroup, "_submit", never)
        await state.set("users", "slow", 1)
        await within_deadline(arrived.wait())
        handler.go.set()
        await until_holds(lambda: recorded(raw, namespace), "the first event is recorded as finished")
    monkeypatch.undo()
    async with working(state, steps):
        await until_holds(lambda: ("end", 1) in handler.of("slow"), "the second event is handled")
    assert handler.of("slow") == [("begin", 0), ("end", 0), ("begin", 1), ("end", 1)]


def recorded(raw: redis.Redis, namespace: str) -> bool:
    """Return whether the mark of a lane has moved over its first entry."""
    streams = [stream for stream in raw.scan_iter(f"{{{namespace}:*}}:events:*") if raw.xlen(stream)]
    return any(group["last-delivered-id"] >= raw.xrange(stream)[0][0] for stream in streams for group in raw.xinfo_groups(stream))


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
        await until_holds(lambda: are_shared(raw, namespace, 1), "the first worker holds the lanes")
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


async def test_lane_that_comes_back_while_its_handler_runs_goes_on_with_that_handler(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    handler = SlowKeys()
    steps = step({"name": "Step", "triggers": [state_trigger(scope="users")], "max_attempts": 1}).handle(handler)
    first, second = (Worker(Application((steps,)), state) for _ in range(2))

    async def all_begun() -> bool:
        return len(handler.notes) == 16

    async def drained() -> bool:
        return await pending(raw, namespace) == 0

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(first.run())
        await until_holds(lambda: are_shared(raw, namespace, 1), "the first worker holds the lanes")
        for number in range(16):
            await state.set("users", f"slow{number}", 0)
        await until(all_begun, "the slow handlers run")
        running = tasks.create_task(second.run())
        await until_holds(lambda: are_shared(raw, namespace, 2), "the second worker has taken lanes")
        for number in range(16):
            await state.set("users", f"slow{number}", 1)
        second.stop()
        await running
        await until_holds(lambda: are_shared(raw, namespace, 1), "the first worker has all lanes again")
        await state.set("users", "quick", 0)
        await until_holds(lambda: bool(handler.of("quick")), "the lanes are read again")
        assert sum(key.startswith("slow") for _, key, _ in handler.notes) == 16, "a handler began beside itself"
        handler.go.set()
        await until(drained, "every event is handled")
        first.stop()
    for number in range(16):
        assert handler.of(f"slow{number}") == [("begin", 0), ("end", 0), ("begin", 1), ("end", 1)]


async def test_running_entry_of_a_group_that_is_made_again_does_not_run_again(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    """A group that is gone is made at the beginning of the stream, so the running entry is read once more."""
    handler = SlowKeys()
    steps = step({"name": "Step", "triggers": [state_trigger(scope="users")]}).handle(handler)

    async def drained() -> bool:
        return await pending(raw, namespace) == 0

    async with working(state, steps):
        for key in ("slow", "quick"):
            await state.set("users", key, 0)
            await until_holds(lambda key=key: bool(handler.of(key)), "the handler runs")
        await until_holds(lambda: len(handler.of("quick")) == 2, "the other key is handled")
        for stream in raw.scan_iter(f"{{{namespace}:*}}:events:*"):
            raw.xgroup_destroy(stream, "Step")
            raw.delete(stream.replace(b"events", b"entries:Step:events"))
        await state.set("users", "slow", 1)
        await state.set("users", "quick", 1)
        # The first tenure has handled it, or the next one; a third event is handled under a group that is there.
        await until_holds(lambda: ("end", 1) in handler.of("quick"), "the lane goes on")

        async def is_made() -> bool:
            return all(raw.xinfo_groups(stream) for stream in raw.scan_iter(f"{{{namespace}:*}}:events:*"))

        await until(is_made, "the groups are made again")
        for number in range(16):  # of every lane
            await state.set("users", f"quick{number}", 2)
        await until_holds(
            lambda: all(handler.of(f"quick{n}")[-1:] == [("end", 2)] for n in range(16)), "the lanes are read again"
        )
        handler.go.set()
        await until(drained, "every event is handled")
    assert handler.of("slow") == [("begin", 0), ("end", 0), ("begin", 1), ("end", 1)]


async def test_suspects_whose_handlers_ran_and_failed_run_side_by_side_again(state: StateManager) -> None:
    """After a crash, what may have caused it runs alone. An entry that ran since then, and did not end the process, may not."""
    runs: dict[str, int] = {}
    together = asyncio.Barrier(2)
    hang = asyncio.Event()
    done: set[str] = set()

    async def handle(input: StateTriggerInput) -> None:
        key = input.item_id
        runs[key] = runs.get(key, 0) + 1
        if runs[key] == 1:
            await hang.wait()  # until its worker crashes
        elif runs[key] == 2:
            raise ValueError
        await within_deadline(together.wait())
        done.add(key)

    config: Any = {"name": "Step", "triggers": [state_trigger(scope="users")], "max_attempts": 4, "backoff": 0.05}
    application = Application((step(config).handle(handle),))
    lease = 2.0  # seconds; a lease that ended because the machine is busy would be a crash
    crashing = asyncio.create_task(Worker(application, state, lease=lease).run())
    await state.connect()
    await Worker(application, state).prepare()
    for key in ("one", "two"):
        await state.set("users", key, 0)
    await until_holds(lambda: len(runs) == 2, "both handlers run")
    crashing.cancel()
    await asyncio.wait([crashing])
    async with working(state, *application.steps, lease=lease):
        await until_holds(lambda: done == {"one", "two"}, "both are handled side by side", deadline=2 * DEADLINE)
    assert runs == {"one": 3, "two": 3}


async def test_lane_is_not_taken_at_once_from_a_worker_that_is_not_on_record(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    """The hash of workers may lose one that lives: a heartbeat removes those that ended long ago by a clock that has jumped."""
    handler = SlowKeys()
    steps = step({"name": "Step", "triggers": [state_trigger(scope="users")]}).handle(handler)
    first = Worker(Application((steps,)), state, lease=6.0, heartbeat=2.0)
    second = Worker(Application((steps,)), state, lease=6.0, heartbeat=0.1)
    workers = f"{namespace}:workers"

    def leases() -> list[dict[bytes, bytes]]:
        return [raw.hgetall(key) for key in raw.scan_iter(f"{{{namespace}:*:leases")]

    def of_workers() -> set[tuple[bytes, bytes]]:
        return {item for found in leases() for item in found.items() if item[0].startswith(b"worker ")}

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(first.run())
        await state.connect()
        await Worker(Application((steps,)), state).prepare()
        for number in range(16):
            await state.set("users", f"slow{number}", 0)
        await until_holds(lambda: len(handler.notes) == 16, "the slow handlers run")
        before = of_workers(), raw.hgetall(workers)
        await until_holds(
            lambda: not before[0] & of_workers() and raw.hgetall(workers) != before[1],
            "the first worker has renewed its leases and sent a heartbeat: the next time is in 2 s",
        )
        raw.delete(workers)
        for key in raw.scan_iter(f"{{{namespace}:*:leases"):
            for name in raw.hkeys(key):
                if name.startswith(b"worker "):
                    raw.hset(key, name, "1")
        tasks.create_task(second.run())
        await until_holds(lambda: all(value != b"1" for _, value in of_workers()), "the first worker renews its leases")
        await until_holds(
            lambda: len({value for found in leases() for name, value in found.items() if name.startswith(b"lane ")}) == 2,
            "the lanes are shared",
        )
        await asyncio.sleep(SETTLED)
        assert len(handler.notes) == 16, "a handler began beside itself"
        handler.go.set()
        first.stop()
        second.stop()


async def test_worker_with_a_longer_lease_keeps_its_lanes_between_two_of_its_heartbeats(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    handler = SlowKeys()
    application = Application((step({"name": "Step", "triggers": [state_trigger(scope="users")]}).handle(handler),))
    long, short = Worker(application, state, lease=8.0, heartbeat=2.0), Worker(application, state, lease=1.0, heartbeat=0.1)

    def lanes() -> dict[bytes, bytes]:
        found = {name: value for key in raw.scan_iter(f"{{{namespace}:*:leases") for name, value in raw.hgetall(key).items()}
        return {name: value for name, value in found.items() if name.startswith((b"lane ", b"tenure "))}

    def holders() -> set[bytes]:
        return {value for name, value in lanes().items() if name.startswith(b"lane ")}

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(long.run())
        await state.connect()
        await Worker(application, state).prepare()
        for number in range(16):
            await state.set("users", f"slow{number}", 0)
        await until_holds(lambda: len(handler.notes) == 16, "the slow handlers run")
        tasks.create_task(short.run())
        await until_holds(lambda: len(holders()) == 2 and b"" not in holders(), "the lanes are shared")
        before = lanes()
        await asyncio.sleep(4.0)  # two heartbeats of the one, four leases of the other
        assert lanes() == before
        assert len(handler.notes) == 16, "a handler began beside itself"
        handler.go.set()
        long.stop()
        short.stop()
