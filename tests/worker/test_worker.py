"""Worker: events and messages reach their steps, failures are retried and dead-lettered, and a stop waits for handlers."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import FlowContext, StateManager, StateTriggerInput, Worker, logger, queue, step
from motia_redis import state as state_trigger
from motia_redis._admin.dead_letters import DeadLetters
from motia_redis._admin.settings import change_settings
from motia_redis._steps.application import Application
from motia_redis._steps.logs import TextFormatter
from motia_redis._store.limits import Retention
from motia_redis._tracing import trace
from motia_redis._worker import attempts
from motia_redis.errors import StateError, StateUnavailable
from tests.support.applications import Command
from tests.support.waiting import until
from tests.support.workers import Recorder, pending, record, working

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from tests.support.servers import RedisServer


async def test_change_reaches_its_step_with_old_and_new_value(state: StateManager) -> None:
    recorder = Recorder()
    async with working(state, record(recorder, state_trigger())):
        await state.set("users", "ann", {"n": 1, "big": 9007199254740993})
        await state.update("users", "ann", [{"op": "increment", "path": "/n", "value": 1}])
        await recorder.wait(2)
        entry = await state.entry("users", "ann")
        await state.delete("users", "ann")
        await recorder.wait(3)
    created, updated, deleted = recorder.inputs
    assert (created.type, created.group_id, created.item_id) == ("state", "users", "ann")
    assert [i.event_type for i in recorder.inputs] == ["state:created", "state:updated", "state:deleted"]
    assert (created.old_value, created.new_value) == (None, {"n": 1, "big": 9007199254740993})
    assert (updated.old_value, updated.new_value) == ({"n": 1, "big": 9007199254740993}, {"n": 2, "big": 9007199254740993})
    assert deleted.new_value is None
    assert entry is not None
    assert updated.revision == entry.revision
    assert updated.timestamp == int(updated.revision.split("-")[0])
    trigger = recorder.contexts[1].trigger
    assert (trigger.type, trigger.scope, trigger.key, trigger.revision, trigger.attempt) == (
        "state", "users", "ann", updated.revision, 1,
    )  # fmt: skip


async def test_scope_key_and_condition_select_events(state: StateManager) -> None:
    def big(input: StateTriggerInput) -> bool:
        return bool(input.new_value["n"] > 10)

    async def even(input: StateTriggerInput, ctx: FlowContext) -> bool:
        assert ctx.trigger.scope == "orders"
        return bool(input.new_value["n"] % 2 == 0)

    recorders = [Recorder() for _ in range(4)]
    steps = [
        step({"name": f"Step{number}", "triggers": triggers}).handle(recorder)
        for number, (recorder, triggers) in enumerate(
            zip(
                recorders,
                [
                    [state_trigger(scope="users")],
                    [state_trigger(scope="users", key="ann")],
                    [state_trigger(big, scope="orders")],
                    [state_trigger(even, scope="orders"), state_trigger(big, scope="orders")],
                ],
                strict=True,
            )
        )
    ]
    async with working(state, *steps):
        for scope, key, n in [
            ("users", "ann", 1),
            ("users", "bob", 2),
            ("orders", "a", 3),
            ("orders", "b", 12),
            ("orders", "c", 4),
        ]:
            await state.set(scope, key, {"n": n})
        for recorder, count in zip(recorders, (2, 1, 1, 2), strict=True):
            await recorder.wait(count)
    found = [sorted((i.group_id, i.item_id) for i in recorder.inputs) for recorder in recorders]
    assert found == [
        [("users", "ann"), ("users", "bob")],
        [("users", "ann")],
        [("orders", "b")],
        [("orders", "b"), ("orders", "c")],
    ]


async def test_every_step_gets_every_event_and_workers_share_them(state: StateManager) -> None:
    one, two = Recorder(), Recorder()
    steps = [
        step({"name": "One", "triggers": [state_trigger()]}).handle(one),
        step({"name": "Two", "triggers": [state_trigger()]}).handle(two),
    ]
    async with working(state, *steps, workers=3):
        await asyncio.gather(*(state.set("users", str(number), number) for number in range(300)))
        await one.wait(300)
        await two.wait(300)
    for recorder in (one, two):
        assert sorted(i.new_value for i in recorder.inputs) == list(range(300)), "each once, although three workers run"


async def test_messages_reach_the_steps_of_their_topic(state: StateManager) -> None:
    recorder = Recorder()
    async with working(state, record(recorder, queue("mail"))):
        message = await state.enqueue("mail", {"to": "ann", "n": []})
        await state.enqueue("other", 1)
        await state.enqueue("mail", "second", key="ann")
        await recorder.wait(2)
    assert sorted(map(repr, recorder.inputs)) == ["'second'", "{'to': 'ann', 'n': []}"]
    by_id = {ctx.trigger.message_id: ctx.trigger for ctx in recorder.contexts}
    assert by_id[message].topic == "mail"
    assert {trigger.key for trigger in by_id.values()} == {None, "ann"}


async def test_messages_and_changes_of_one_key_stay_in_order(state: StateManager) -> None:
    """In one worker, handlers of different keys run concurrently, and those of one key one after the other."""
    seen: dict[str, list[int]] = {}
    running: set[str] = set()

    async def handler(input: StateTriggerInput) -> None:
        assert input.item_id not in running, "two events of one key at once"
        running.add(input.item_id)
        await asyncio.sleep(0.001 * (input.new_value % 3))
        seen.setdefault(input.item_id, []).append(input.new_value)
        running.discard(input.item_id)

    async with working(state, record(handler, state_trigger())):
        for number in range(40):
            await asyncio.gather(*(state.set("users", f"key{key}", number) for key in range(5)))

        async def all_seen() -> bool:
            return sum(map(len, seen.values())) == 200

        await until(all_seen, "200 events")
    assert all(numbers == list(range(40)) for numbers in seen.values())


async def test_messages_of_a_key_are_in_one_lane(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    """Only within a lane is there an order: with one key in several lanes, workers would handle its messages side by side."""
    for number in range(20):
        await state.enqueue("mail", number, key="ann")
    (lane,) = raw.scan_iter(f"{{{namespace}:*}}:topic:*")
    assert raw.xlen(lane) == 20
    for number in range(40):
        await state.enqueue("mail", number)
    assert len(list(raw.scan_iter(f"{{{namespace}:*}}:topic:*"))) > 1, "messages without a key are spread"


async def test_trace_id_is_passed_from_the_change_to_the_last_handler(state: StateManager) -> None:
    last = Recorder()

    async def cascade(input: StateTriggerInput, ctx: FlowContext) -> None:
        await ctx.state.set("copies", input.item_id, input.new_value)

    async def forward(input: StateTriggerInput, ctx: FlowContext) -> None:
        await ctx.enqueue({"topic": "copied", "data": input.item_id})

    steps = [
        step({"name": "Cascade", "triggers": [state_trigger(scope="users")]}).handle(cascade),
        step({"name": "Forward", "triggers": [state_trigger(scope="copies")]}).handle(forward),
        step({"name": "Last", "triggers": [queue("copied")]}).handle(last),
    ]
    async with working(state, *steps):
        with trace("ab" * 16):
            await state.set("users", "ann", 1)
        await last.wait(1)
    assert last.contexts[0].trace_id == "ab" * 16


async def test_sync_handlers_run_in_threads_and_may_block(state: StateManager) -> None:
    threads: set[str] = set()
    both = threading.Barrier(2, timeout=20)

    def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        both.wait()  # holds up its thread until a second handler runs beside it
        threads.add(threading.current_thread().name)

    async with working(state, record(handler, state_trigger())):
        await asyncio.gather(state.set("users", "ann", 1), state.set("users", "bob", 1))

        async def two() -> bool:
            return len(threads) == 2

        await until(two, "two handlers at once")
    assert threading.main_thread().name not in threads


async def test_handler_that_raises_is_retried_with_growing_backoff(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    times: list[float] = []

    async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        times.append(asyncio.get_running_loop().time())
        assert ctx.trigger.attempt == len(times)
        if len(times) < 3:
            raise ValueError("not yet")

    async with working(state, record(handler, state_trigger(), backoff=0.1)):
        await state.set("users", "ann", 1)

        async def three() -> bool:
            return len(times) == 3

        await until(three, "three attempts")
    # The second pause is twice the first, each with a jitter of a fifth.
    assert times[1] - times[0] >= 0.075
    assert times[2] - times[1] >= 0.155
    assert await pending(raw, namespace) == 0
    assert not raw.keys(f"{{{namespace}:*:dead:*")


async def test_handler_that_always_raises_dead_letters_and_delays_only_its_key(
    state: StateManager, raw: redis.Redis, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = Recorder()

    async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        if input.item_id == "poison":
            raise ValueError("cannot digest")
        await good(input, ctx)

    async with working(state, record(handler, state_trigger(), max_attempts=2, backoff=0.05)):
        await state.set("users", "poison", {"n": 1})
        for number in range(20):
            await state.set("users", f"good{number}", number)
        await good.wait(20)

        async def buried() -> bool:
            return bool(raw.keys(f"{{{namespace}:*:dead:Record"))

        await until(buried, "a dead letter")
    (stream,) = raw.keys(f"{{{namespace}:*:dead:Record")
    ((_, letter),) = raw.xrange(stream)
    assert letter[b"error"] == b"ValueError"
    assert letter[b"text"] == b"cannot digest"
    assert letter[b"attempts"] == b"2"
    assert letter[b"key"] == b"poison"
    lines = [TextFormatter().format(logged) for logged in caplog.records if "step Record" in logged.getMessage()]
    assert len(lines) == 2
    assert lines[0].count("Traceback") == 1
    (found,) = await DeadLetters(state).list()
    assert lines[1].endswith(f' show="motia-redis dead show --namespace {namespace} --step Record {found.id}"')
    assert letter[b"new"].strip() == b'{"n":1}'
    assert await pending(raw, namespace) == 0, "moved and acknowledged in one step"


@pytest.mark.parametrize("failure", ["timeout", "condition", "cancel", "exit"])
async def test_every_kind_of_failure_is_a_failed_attempt(
    state: StateManager, raw: redis.Redis, namespace: str, failure: str
) -> None:
    def condition(input: StateTriggerInput) -> bool:
        if failure == "condition":
            raise KeyError("no such member")
        return True

    async def handler(input: StateTriggerInput) -> None:
        if failure == "timeout":
            await asyncio.sleep(60)
        if failure == "cancel":
            raise asyncio.CancelledError
        raise SystemExit(3)

    name = {"timeout": b"TimeoutError", "condition": b"KeyError", "cancel": b"CancelledError", "exit": b"RuntimeError"}[failure]
    options = {"max_attempts": 2, "backoff": 0.01, "timeout": 0.1}
    async with working(state, record(handler, state_trigger(condition), **options)):
        await state.set("users", "ann", 1)

        async def buried() -> bool:
            return bool(raw.keys(f"{{{namespace}:*:dead:Record"))

        await until(buried, "a dead letter")
    (stream,) = raw.keys(f"{{{namespace}:*:dead:Record")
    letter = raw.xrange(stream)[0][1]
    assert letter[b"error"] == name
    if failure == "timeout":
        assert letter[b"text"] == b"the handler took longer than the step's timeout of 0.1 s"


@pytest.mark.parametrize(
    "fields",
    [
        {"x": "y"},
        {"type": "state:updated"},
        {"type": "state:updated", "scope": "users", "key": b"\xff", "new": "1"},
        {"type": "state:updated", "scope": "users", "key": "ann", "new": "1", "kept": "x"},
        {"type": "topic", "data": "1"},
    ],
    ids=["unknown", "no scope", "no UTF-8", "no number", "no topic"],
)
async def test_entry_that_another_client_wrote_into_a_stream_becomes_a_dead_letter_that_says_so(
    state: StateManager, raw: redis.Redis, namespace: str, fields: dict[str, Any]
) -> None:
    recorder = Recorder()
    async with working(state, record(recorder, state_trigger(), queue("mail"), max_attempts=1)):
        for stream in (await state.connect()).event_streams("users"):
            raw.xadd(stream, fields)
        lanes = len((await state.connect()).event_streams("users"))

        async def buried() -> bool:
            return len(await DeadLetters(state).list()) == lanes

        await until(buried, "a dead letter for each entry")
        await state.set("users", "ann", 1)
        await recorder.wait(1)
    for letter in await DeadLetters(state).list():
        assert letter.error_type == "CorruptValue"
        assert letter.error_text.endswith("is no event and no message: another client wrote it into the stream")


async def test_stop_waits_for_running_handlers_and_acknowledges_them(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    started, finished = asyncio.Event(), []

    async def handler(input: StateTriggerInput) -> None:
        started.set()
        await asyncio.sleep(0.3)
        finished.append(input.item_id)

    async with working(state, record(handler, state_trigger())):
        await state.set("users", "ann", 1)
        await started.wait()
    assert finished == ["ann"]
    assert await pending(raw, namespace) == 0


async def test_events_before_the_first_worker_are_handled_once_groups_exist(state: StateManager) -> None:
    recorder = Recorder()
    steps = record(recorder, state_trigger())
    await Worker(Application((steps,)), state).prepare()
    for number in range(300):  # more than the history that a lane without subscribers keeps
        await state.set("users", "ann", number)
    async with working(state, steps):
        await recorder.wait(300)
    assert [i.new_value for i in recorder.inputs] == list(range(300))


@pytest.mark.usefixtures("every_change_looks")
async def test_handled_events_are_trimmed(server: RedisServer, raw: redis.Redis, namespace: str) -> None:
    recorder = Recorder()
    state = StateManager(server.url, namespace=namespace, deadline=0)  # no events are kept for repeated calls
    async with state, working(state, record(recorder, state_trigger(scope="users"))):
        for number in range(1500):
            await state.set("users", "ann", number)
        await recorder.wait(1500)
        for number in range(300):
            await state.set("users", "ann", number)
        await recorder.wait(1800)
    streams = raw.keys(f"{{{namespace}:*:events:*")
    assert sum(raw.xlen(stream) for stream in streams) < 1000


@pytest.mark.usefixtures("every_change_looks")
async def test_handled_events_are_kept_for_the_configured_time(server: RedisServer, raw: redis.Redis, namespace: str) -> None:
    async with StateManager(server.url, namespace=namespace, retention=Retention(entries=10, seconds=3600)) as state:
        recorder = Recorder()
        async with working(state, record(recorder, state_trigger())):
            for number in range(1000):
                await state.set("users", "ann", number)
            await recorder.wait(1000)
            await state.set("users", "ann", 1000)
        assert raw.xlen((await state.connect()).state_keys(b"users", b"ann").events) == 1001
        await change_settings(state, seconds=0.0)
        for number in range(1000):
            await state.set("users", "bob", number)
        lanes = [raw.xlen(key) for key in raw.keys(f"{{{namespace}:*:events:*")]
        assert max(lanes) >= 1000, "what a step has not handled stays"


@pytest.mark.parametrize("settings", [{"entries": -1}, {"entries": 11, "most_entries": 10}, {"seconds": -1.0}])
def test_invalid_retention_is_rejected(settings: dict[str, Any]) -> None:
    with pytest.raises(StateError, match=r"retention (entries|seconds) must be from 0"):
        Retention(**settings)


@pytest.mark.usefixtures("every_change_looks")
async def test_hard_cap_logs_and_counts_dropped_events(
    server: RedisServer, raw: redis.Redis, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """G9: a step without workers cannot fill Redis. Its lost entries are logged and counted."""
    async with StateManager(server.url, namespace=namespace, retention=Retention(most_entries=300)) as state:
        await Worker(Application((record(Recorder(), state_trigger()),)), state).prepare()
        for first in range(0, 3000, 100):
            await asyncio.gather(*(state.set("users", "ann", number) for number in range(first, first + 100)))
        keyspace = await state.connect()
        keys = keyspace.state_keys(b"users", b"ann")
        kept = raw.xlen(keys.events)
        lost = raw.hget(keyspace.trimmed(keys.events), b"dropped " + keys.events)
    assert kept < 1000
    assert int(lost or 0) == 3000 - kept
    assert "over the hard cap" in caplog.text


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


async def test_step_that_triggers_itself_is_named_once(
    state: StateManager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(attempts, "_LONG_CHAIN", 20)
    recorder = Recorder()

    async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        await recorder(input, ctx)
        if input.new_value < 50:
            await ctx.state.set("users", "ann", input.new_value + 1)

    async with working(state, record(handler, state_trigger(scope="users"))):
        await state.set("users", "ann", 0)
        await recorder.wait(51)
    named = [entry.getMessage() for entry in caplog.records if "within one trace" in entry.getMessage()]
    assert named == ["step Record ran 20 times within one trace: does it trigger itself, directly or by other steps?"]


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


async def test_failing_key_with_a_long_queue_does_not_delay_other_keys(state: StateManager) -> None:
    """G7: entries that wait behind a key in backoff do not use up the limit for other keys."""
    good = Recorder()

    async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        if input.item_id == "poison":
            raise ValueError("not now")
        await good(input, ctx)

    async with working(state, record(handler, state_trigger(scope="users"), backoff=20)):
        for first in range(0, 2000, 100):
            await asyncio.gather(*(state.set("users", "poison", number) for number in range(first, first + 100)))
        for number in range(50):
            await state.set("users", f"good{number}", number)
        await good.wait(50)


async def test_entries_behind_a_failing_key_are_handled_in_order(state: StateManager) -> None:
    seen: list[int] = []
    failures = 2

    async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        nonlocal failures
        if input.new_value == 3 and failures:
            failures -= 1
            raise ValueError("not yet")
        seen.append(input.new_value)

    async with working(state, record(handler, state_trigger(), backoff=0.2)):
        for number in range(50):
            await state.set("users", "ann", number)

        async def all_seen() -> bool:
            return len(seen) == 50

        await until(all_seen, "50 events")
    assert seen == list(range(50))


async def test_the_logger_names_step_and_trace(state: StateManager, caplog: pytest.LogCaptureFixture) -> None:
    done = Recorder()

    async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        ctx.logger.info("by context", {"key": input.item_id})
        logger.info("global")
        await done(input, ctx)

    caplog.set_level("INFO")
    async with working(state, record(handler, state_trigger())):
        await state.set("users", "ann", 1)
        await done.wait(1)
    records = {record.message: record for record in caplog.records}
    assert vars(records["by context"])["fields"] == {"key": "ann"}
    for name in ("by context", "global"):
        assert vars(records[name])["step"] == "Record"
        assert vars(records[name])["trace_id"] == done.contexts[0].trace_id


SLOW_STEP = """
import asyncio
from motia_redis import state, step

@step({"name": "Slow", "triggers": [state(scope="users")]})
async def slow(input, ctx):
    await ctx.state.set("log", "started", input.new_value)
    await asyncio.sleep(0.5)
    await ctx.state.set("log", "finished", input.new_value)
"""


async def test_sigterm_waits_for_running_handlers_and_exits_0(
    state: StateManager, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    (tmp_path / "slow_step.py").write_text(SLOW_STEP)
    with Command(tmp_path, "worker", ".", "--redis", server.url, "--namespace", namespace) as worker:
        await state.set("users", "ann", 7)

        async def started() -> bool:
            return await state.get("log", "started") == 7

        await until(started, "the handler starts")
        assert worker.stop() == 0
        assert await state.get("log", "finished") == 7


HTTP_STEP = """
from motia_redis import http, state, step

@step({"name": "Create", "triggers": [http("POST", "/items/:id")]})
async def create(request, ctx):
    await ctx.state.set("items", request.path_params["id"], {"trace": ctx.trace_id})
    return {"status": 201, "body": {"trace": ctx.trace_id}}

@step({"name": "React", "triggers": [state(scope="items")]})
async def react(input, ctx):
    await ctx.state.set("reactions", input.item_id, ctx.trace_id)
"""


async def test_run_serves_and_works_with_one_trace_id(
    state: StateManager, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    import httpx

    (tmp_path / "app.py").write_text(HTTP_STEP)
    command = ["run", "app.py", "--port", "0", "--redis", server.url, "--namespace", namespace]
    with Command(tmp_path, *command, ready="serving") as process:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{process.port}") as client:
            response = await client.post("/items/one")
        assert response.status_code == 201
        trace_id = response.json()["trace"]
        assert response.headers["x-trace-id"] == trace_id

        async def reacted() -> bool:
            return await state.get("reactions", "one") == trace_id

        await until(reacted, "the trigger fires with the request's trace id")
        assert process.stop() == 0


@pytest.mark.parametrize("command", [["run", "--port", "0"], ["serve", "--port", "0"], ["worker"]], ids=" ".join)
def test_unreachable_redis_prints_one_line_and_exits_2(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(HTTP_STEP)
    arguments = [sys.executable, "-m", "motia_redis", *command, "app.py", "--redis", "redis://127.0.0.1:1/0", "--wait", "0"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    *_, line = done.stderr.splitlines()
    assert line.startswith("motia-redis: error: ")
    assert "cannot reach Redis at redis://127.0.0.1:1/0" in line
