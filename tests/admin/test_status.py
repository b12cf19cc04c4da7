"""Test the numbers and the cost of `status`, and `steps forget`."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from motia_redis import StateManager, StateTriggerInput, Worker, __version__, queue, step
from motia_redis import state as state_trigger
from motia_redis._admin.announced import Attempted
from motia_redis._admin.dead_letters import DeadLetters
from motia_redis._admin.status import StepStatus, read_status
from motia_redis._steps.application import Application
from motia_redis._worker import reporting
from tests.support.applications import Command
from tests.support.commands import error_line, run_command
from tests.support.dead_letters import FailingHandler, failing_step, wait_for_dead_letters, wait_until_drained
from tests.support.waiting import until
from tests.support.workers import Recorder, record, working

if TYPE_CHECKING:
    import redis

    from tests.support.servers import RedisServer


async def status_of(state: StateManager, name: str) -> StepStatus:
    return next(step for step in (await read_status(state)).steps if step.name == name)


async def test_status_of_a_new_namespace_has_no_steps_and_no_workers(
    state: StateManager, server: RedisServer, namespace: str
) -> None:
    found = await read_status(state)
    assert (found.namespace, found.steps, found.workers) == (namespace, [], [])
    done = await run_command(server, namespace, "status")
    assert (done.returncode, done.stdout) == (0, f"namespace {namespace!r} of {server.url}\n\nno steps\n\nno workers\n")
    assert json.loads((await run_command(server, namespace, "status", "--json")).stdout)["redis"] == server.url


async def test_status_counts_lag_pending_lanes_and_dead_letters_of_each_step(
    state: StateManager, raw: redis.Redis, server: RedisServer, namespace: str
) -> None:
    started, gate = asyncio.Event(), asyncio.Event()

    async def slow(input: StateTriggerInput) -> None:
        started.set()
        await gate.wait()

    steps = [
        record(Recorder(), state_trigger(scope="users"), queue("mail")),
        failing_step(slow, "Slow", state_trigger(scope="users", key="ann")),
        failing_step(FailingHandler(), "Sick", state_trigger(scope="orders")),
    ]
    # A key in each lane, so that the lagging step has one event pending and the rest behind it in its one lane.
    async with working(state, *steps):
        await state.set("users", "ann", 0)
        await started.wait()
        for number in range(1, 4):
            await state.set("orders", f"key{number}", number)
        await state.enqueue("mail", 1)
        await wait_for_dead_letters(DeadLetters(state), 3)
        await wait_until_drained(raw, namespace, "Record", "Sick")

        async def is_told() -> bool:
            return (await status_of(state, "Slow")).pending == 1

        await until(is_told, "the worker tells what it has handed out")
        found = await read_status(state)
        done = await run_command(server, namespace, "status")
        told = json.loads((await run_command(server, namespace, "status", "--json")).stdout)
        gate.set()
    keeps_up, sick, lags = found.steps
    assert [step.name for step in found.steps] == ["Record", "Sick", "Slow"]
    assert (keeps_up.lag, keeps_up.pending, keeps_up.oldest_age, keeps_up.dead_letters) == (0, 0, None, 0)
    assert (keeps_up.lanes_held, keeps_up.lanes) == (16, 16), "a scope's lanes and a topic's"
    assert (sick.lag, sick.pending, sick.oldest_age, sick.dead_letters) == (0, 0, None, 3)
    assert (lags.lag, lags.pending, lags.lanes_held, lags.lanes) == (0, 1, 1, 1)
    assert lags.oldest_age is not None
    assert 0 <= lags.oldest_age < 60
    (worker,) = found.workers
    assert (worker.host, worker.pid) == (socket.gethostname(), os.getpid())
    assert worker.lanes == {"Record": 16, "Sick": 8, "Slow": 1}
    _, _, head, *rows = done.stdout.splitlines()
    assert head.split() == ["STEP", "LAG", "PENDING", "OLDEST", "LANES", "DEAD"]
    assert rows[0].split() == ["Record", "0", "0", "-", "16/16", "0"]
    assert rows[1].split() == ["Sick", "0", "0", "-", "8/8", "3"]
    assert rows[2].split()[:3] == ["Slow", "0", "1"]
    assert len({len(row) for row in (head, *rows[:3])}) == 1, "aligned"
    assert rows[5].split()[1:4] == [socket.gethostname(), str(os.getpid()), __version__]
    assert 0 <= float(rows[5].split()[4]) < 3, "the last heartbeat"
    assert rows[5].split()[5:] == ["Record:16", "Sick:8", "Slow:1"]
    assert told["namespace"] == namespace
    assert [(step["name"], step["dead_letters"]) for step in told["steps"]] == [("Record", 0), ("Sick", 3), ("Slow", 0)]
    assert told["workers"][0]["lanes"] == {"Record": 16, "Sick": 8, "Slow": 1}


async def test_lag_and_oldest_age_are_exact_without_a_live_worker(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    async with working(state, record(Recorder(), state_trigger(scope="users"), queue("mail"))):
        await state.set("users", "before", 0)
        await wait_until_drained(raw, namespace, "Record")
    entry = None
    for number in range(300):
        await state.set("users", f"key{number}", number)
        entry = entry or await state.entry("users", "key0")
    for number in range(20):
        await state.enqueue("mail", number)
    await asyncio.sleep(0.3)
    found = await status_of(state, "Record")
    assert (found.lag, found.lag_exact, found.pending) == (320, True, 0), "topics are known though no worker lives"
    assert (found.lanes_held, found.lanes) == (0, 16)
    assert found.oldest_age is not None
    assert 0.3 <= found.oldest_age < 60
    # Deletions ahead of a group take the server's own number away (as on Redis 6.2, which never has one).
    keyspace = await state.connect()
    deleted = 0
    for stream in keyspace.event_streams("users"):
        entries = raw.xrange(stream)
        deleted += raw.xdel(stream, entries[len(entries) // 2][0], entries[-1][0])
    found = await status_of(state, "Record")
    assert (found.lag, found.lag_exact) == (320 - deleted, True)


async def test_each_of_many_steps_on_one_scope_has_its_own_numbers(state: StateManager, raw: redis.Redis) -> None:
    """Their groups are read together, in several calls, and each step gets its own."""
    steps = [record(Recorder(), state_trigger(scope="users"), name=f"Step{number:02}") for number in range(70)]
    await Worker(Application(tuple(steps)), state).prepare()
    revisions = []
    for number in range(70):
        await state.set("users", "ann", number)
        entry = await state.entry("users", "ann")
        assert entry is not None
        revisions.append(entry.revision)
    stream = (await state.connect()).event_streams("users", "ann")[0]
    for number, revision in enumerate(revisions):
        raw.xgroup_setid(stream, f"Step{number:02}", revision)
    lags = {step.name: step.lag for step in (await read_status(state)).steps}
    assert lags == {f"Step{number:02}": 69 - number for number in range(70)}


async def test_status_shows_entries_that_the_hard_cap_removed(
    state: StateManager, raw: redis.Redis, server: RedisServer, namespace: str
) -> None:
    keyspace = await state.connect()
    (one,) = keyspace.event_streams("users", "ann")
    (two,) = keyspace.event_streams("orders", "x")
    raw.hset(keyspace.trimmed(one), b"dropped " + one, 7)
    raw.hset(keyspace.trimmed(two), b"dropped " + two, 2)
    assert (await read_status(state)).dropped == {one.decode(): 7, two.decode(): 2}
    done = await run_command(server, namespace, "status")
    assert "caps of the retention have removed 9 unhandled entries and dead letters: " in done.stdout
    assert f"{one.decode()} 7" in done.stdout


@pytest.mark.parametrize("size", [10, 300_000])
async def test_lag_is_counted_up_to_a_limit(state: StateManager, raw: redis.Redis, namespace: str, size: int) -> None:
    keyspace = await state.connect()
    (stream,) = keyspace.event_streams("users", "ann")
    raw.xadd(stream, {"first": 1})
    raw.xgroup_create(stream, "Counted", id=raw.xadd(stream, {"second": 1}))
    raw.hset(keyspace.leases(stream), b"lane Counted\n" + stream, "")
    count = 11_000 if size == 10 else 60
    with raw.pipeline(transaction=False) as pipeline:
        for _ in range(count):
            pipeline.xadd(stream, {"field": b"x" * size})
        ids = pipeline.execute()
    raw.xdel(stream, ids[count // 2])  # so that no difference of ids or counters tells the number
    found = await status_of(state, "Counted")
    assert (found.lag, found.lag_exact) == ((10_000, False) if size == 10 else (59, True))


async def test_status_cost_depends_on_lanes_and_steps_not_on_the_keyspace(state: StateManager, raw: redis.Redis) -> None:
    async with working(state, record(Recorder(), state_trigger()), failing_step(FailingHandler(), "Sick", state_trigger())):
        await state.set("users", "ann", 1)
        await wait_for_dead_letters(DeadLetters(state), 1)
    with raw.pipeline() as pipeline:
        for number in range(2000):
            pipeline.set(f"foreign{number}", 1)
        pipeline.execute()
    raw.config_resetstat()
    await read_status(state)
    calls = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in raw.info("commandstats").items()}
    assert not {"keys", "scan"} & calls.keys()
    assert sum(calls.values()) < 2 * 128 * 7 + 16 * 4 + 50, calls
    raw.delete(*(f"foreign{number}" for number in range(2000)))


async def test_dead_worker_holds_no_lanes_after_its_lease(
    state: StateManager, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(
        "from motia_redis import state, step\n\n\n"
        "@step({'name': 'Step', 'triggers': [state(scope='users')]})\n"
        "async def handle(input):\n    pass\n"
    )
    with Command(tmp_path, "worker", "app.py", "--redis", server.url, "--namespace", namespace) as worker:

        async def works() -> bool:
            found = await read_status(state)
            return [w.pid for w in found.workers] == [worker.process.pid] and found.steps[0].lanes_held == 8

        await until(works, "the worker holds all lanes")
        assert error_line(await run_command(server, namespace, "steps", "forget", "Step")) == (
            f"step 'Step' cannot be forgotten: the step still runs in process {worker.process.pid} on {socket.gethostname()}, "
            "and wants all of its lanes; end its workers, or use --force (in code: force=True)"
            f" (namespace {namespace!r} of {server.url})"
        )
        worker.process.kill()

        async def gone() -> bool:
            found = await read_status(state)
            return not found.workers and found.steps[0].lanes_held == 0

        await until(gone, "its lease ran out")
        assert (await status_of(state, "Step")).lanes == 8


async def test_status_ignores_malformed_fields_of_the_workers_hash(state: StateManager, raw: redis.Redis) -> None:
    keyspace = await state.connect()
    valid = b'{"steps":{"Step":{"states":[],"topics":["mail"]}},"host":"there","pid":7,"version":"1","lease":3}'
    fields = {
        "live": b"99999999999999 " + valid,
        "expired": b"1 " + valid,
        "no time": valid,
        "no description": b"99999999999999",
        "no JSON": b"99999999999999 {",
        "no object": b"99999999999999 []",
        "no host": b'99999999999999 {"steps":{},"pid":7,"version":"1","lease":3}',
        "text as pid": b'99999999999999 {"steps":{},"host":"there","pid":"7","version":"1","lease":3}',
        "number as step": b'99999999999999 {"steps":{"Step":1},"host":"there","pid":7,"version":"1","lease":3}',
        b"\xff": b"99999999999999 " + valid,
    }
    fields["no version"] = b'99999999999999 {"steps":{},"host":"there","pid":7,"lease":3}'
    fields["live"] = fields["live"].replace(b'"lease":3', b'"lease":3,"slow":[1,{"step":2}]')
    raw.hset(keyspace.workers, mapping=fields)
    found = await read_status(state)
    (worker,) = found.workers
    assert (worker.id, worker.host, worker.pid, worker.lanes) == ("live", "there", 7, {"Step": 0})
    assert (worker.version, worker.lease, worker.slow) == ("1", 3, [])
    assert [worker.id for worker in found.silent] == ["expired"]


async def test_workers_tell_their_attempts_and_watches(state: StateManager) -> None:
    def wanted(input: StateTriggerInput) -> bool:
        return input.new_value != "unwanted"

    async def handle(input: StateTriggerInput) -> None:
        if input.new_value == "bad":
            raise ValueError

    counted = step({"name": "Counted", "triggers": [state_trigger(condition=wanted)], "max_attempts": 1})
    async with working(state, counted.handle(handle), heartbeat=0.1), state.watch("orders"):
        for value in ("good", "better", "unwanted", "bad"):
            await state.set("orders", value, value)

        async def told() -> bool:
            workers = (await read_status(state)).workers
            return [(each.watches, each.attempted) for each in workers] == [(1, {"Counted": Attempted(handled=2, failed=1)})]

        await until(told, "the worker has told what it attempted")


async def test_status_names_keys_that_fail_and_keys_whose_handler_runs_for_long(
    state: StateManager, server: RedisServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "_SLOW", 0.2)
    gate = asyncio.Event()

    async def handle(input: StateTriggerInput) -> None:
        if input.item_id == "hangs":
            await gate.wait()
        elif input.item_id != "works" and not gate.is_set():
            raise ValueError

    slow = step({"name": "Slow", "triggers": [state_trigger()], "max_attempts": 1000, "backoff": 0.01, "max_backoff": 0.2})
    async with working(state, slow.handle(handle), heartbeat=0.1):
        for key in ("hangs", "works", *(f"fails{number}" for number in range(12))):
            await state.set("orders", key, 1)

        async def told() -> bool:
            found = await read_status(state)
            return found.steps[0].keys_failing == 12 and bool(found.workers[0].slow)

        await until(told, "the worker has told what fails and what runs for long")
        found = await read_status(state)
        done = await run_command(server, namespace, "status")
        gate.set()

        async def is_over() -> bool:
            found = await read_status(state)
            return not (found.steps[0].keys_failing or found.workers[0].slow)

        await until(is_over, "keys that were handled are not named any more")
    (status,) = found.steps
    assert len(status.failing) == 10
    assert {each.event["scope"] for each in status.failing} == {"orders"}
    assert all(each.event["key"].startswith("fails") and each.attempts >= 3 and each.age >= 0 for each in status.failing)
    assert [each.attempts for each in status.failing] == sorted((each.attempts for each in status.failing), reverse=True)
    (handler,) = found.workers[0].slow
    assert (handler.step, handler.event, handler.attempt) == ("Slow", {"scope": "orders", "key": "hangs"}, 1)
    assert 0.2 <= handler.seconds < 60
    assert "  Slow: scope orders key fails" in done.stdout
    assert "  Slow: 2 more keys fail\n" in done.stdout
    place = f"in process {os.getpid()} on {socket.gethostname()}"
    assert re.search(rf"\n  Slow: scope orders key hangs: the handler has run for \d+ s {place} \(attempt 1\)\n", done.stdout)
