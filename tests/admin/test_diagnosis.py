"""Test what `examine` finds in a namespace by samples, from which numbers on, and what it costs."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import redis

from motia_redis import Layout, Retention, StateManager, queue
from motia_redis import state as state_trigger
from motia_redis._admin import diagnosis, registry, sampling
from motia_redis._admin.connections import open_namespace
from motia_redis._admin.sampling import Cause, Held, HotKey, Sizes
from motia_redis._admin.status import StepSchedule, StepStatus, StepVersion, WorkerStatus
from motia_redis._scripts import administration
from motia_redis._store.namespaces import Rejection, read_rejection
from motia_redis.admin import DeadLetters, Finding, SlowHandler, Status, examine
from motia_redis.errors import LayoutMismatch, SettingsMismatch
from tests.support.dead_letters import failing_step, wait_for_dead_letters, wait_until_drained
from tests.support.servers import RedisServer
from tests.support.workers import Recorder, record, working

if TYPE_CHECKING:
    from pathlib import Path


VERSION = StepVersion(states=[("orders", None)], topics=[], schedules=[], items=[], workers=1, worker_ids=["w"])
STEP = StepStatus(
    name="Ship", lag=0, lag_exact=True, pending=0, oldest_age=None, lanes=8, lanes_held=8, dead_letters=0, lanes_unwanted=0,
    unwanted=[], paused_for=None, keys_failing=0, failing=[], schedules=[], versions=[VERSION],
)  # fmt: skip
WORKER = WorkerStatus(
    id="w", host="vm", pid=7, version="1", lease=3.0, heartbeat_age=0.4, lanes={"Ship": 8}, attempted={}, watches=0, slow=[]
)
HANDLER = SlowHandler(step="Ship", event={"scope": "orders", "key": "7"}, attempt=1, seconds=29.0)
STATUS = Status(
    namespace="n", steps=[STEP], workers=[WORKER], silent=[], dropped={}, topics=[], delayed=0, next_due_in=None
)  # fmt: skip


def judged(check: str, status: Status, stuck_after: float = 30.0) -> list[Finding]:
    """Return the findings of a check that are not ok."""
    found = [finding for finding in diagnosis.judge_status(status, stuck_after=stuck_after) if finding.check == check]
    assert found, "each check has a finding"
    assert all(bool(finding.remedy) == (finding.outcome != "ok") for finding in found)
    return [finding for finding in found if finding.outcome != "ok"]


def with_step(**changes: Any) -> Status:
    return replace(STATUS, steps=[replace(STEP, **changes)])


def with_worker(**changes: Any) -> Status:
    return replace(STATUS, workers=[replace(WORKER, **changes)])


# -- from which numbers on --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "well", "trouble"),
    [
        ("workers", with_worker(heartbeat_age=1.4), with_worker(heartbeat_age=1.6)),
        ("stuck-keys", with_worker(slow=[HANDLER]), with_worker(slow=[replace(HANDLER, seconds=30.0)])),
        ("backlog", with_step(lag=9, oldest_age=59.0), with_step(lag=9, oldest_age=61.0)),
        # Other findings say why entries are old.
        ("backlog", with_step(lag=9, oldest_age=61.0, versions=[]), with_step(lag=9, oldest_age=61.0)),
        ("backlog", with_step(pending=9, oldest_age=61.0, keys_failing=1), with_step(lag=9, oldest_age=61.0, keys_failing=1)),
        ("lanes", with_step(), with_step(lanes_held=7)),
        ("paused", with_step(), with_step(paused_for=1.0)),
        ("backlog", with_step(lag=9, oldest_age=61.0, paused_for=90.0), with_step(lag=9, oldest_age=61.0)),
        (
            "schedules",
            with_step(schedules=[StepSchedule(name="UTC 0 8 * * *", next_in=-4.0)]),
            with_step(schedules=[StepSchedule(name="UTC 0 8 * * *", next_in=-6.0)]),
        ),
        (
            "schedules",  # the worker is about to say it
            with_step(schedules=[StepSchedule(name="S", next_in=None)], versions=[replace(VERSION, schedules=["S"])]),
            with_step(schedules=[StepSchedule(name="S", next_in=None)]),
        ),
        ("due", replace(STATUS, next_due_in=-4.0), replace(STATUS, next_due_in=-6.0)),
        ("dropped", replace(STATUS, dropped={"{n:1}:dead:Ship": 3}), replace(STATUS, dropped={"{n:1}:events:1": 3})),
    ],
)
def test_check_warns_from_its_threshold_on(check: str, well: Status, trouble: Status) -> None:
    assert judged(check, well) == []
    assert [finding.outcome for finding in judged(check, trouble)] == ["warning"]


def test_lanes_fail_only_if_nobody_runs_the_step_and_entries_wait() -> None:
    assert [finding.outcome for finding in judged("lanes", with_step(lanes_held=0, versions=[]))] == ["warning"]
    (finding,) = judged("lanes", with_step(lanes_held=0, versions=[], lag=10_000, lag_exact=False))
    assert finding.outcome == "failed"
    assert "10000 or more entries waiting" in finding.found


def test_remedies_quote_names_for_the_shell() -> None:
    (finding,) = judged("unwanted-lanes", with_step(name="it's", lanes_unwanted=1, unwanted=["topic mail"]))
    assert "motia-redis steps forget 'it'\"'\"'s' --lanes" in finding.remedy


def test_check_has_at_most_five_lines_and_says_how_many_more() -> None:
    silent = [replace(WORKER, pid=number) for number in range(9)]
    found = judged("workers", replace(STATUS, silent=silent))
    assert len(found) == 5
    assert found[-1].found == "and 5 more"


def test_thresholds_of_samples() -> None:
    event = {"scope": "s", "key": "k"}
    outcomes = [
        [finding.outcome for finding in found]
        for found in (
            diagnosis.judge_hot_keys([HotKey(event, 99, 500.0), HotKey(event, 500, 19.0)]),
            diagnosis.judge_hot_keys([HotKey(event, 100, 20.0)]),
            diagnosis.judge_sizes(Sizes(1, 1, [("s", 999_999)], 1, [("s", "k", 262_143)])),
            diagnosis.judge_sizes(Sizes(1, 1, [("s", 1_000_000)], 1, [("s", "k", 262_144)])),
            diagnosis.judge_held(with_step(oldest_age=61.0), {"Ship": Held(1, 9, True, 8_000_000)}),
            diagnosis.judge_held(with_step(oldest_age=59.0), {"Ship": Held(1, 9, True, 9_000_000)}),
            diagnosis.judge_held(with_step(oldest_age=61.0), {"Ship": Held(1, 9, True, 9_000_000)}),
        )
    ]
    assert outcomes == [["ok"], ["warning"], ["ok", "ok"], ["warning", "warning"], ["ok"], ["ok"], ["warning"]]


def test_layout_is_too_small_if_a_primary_has_nothing_or_another_has_much_more() -> None:
    layout = Layout(16, 8)
    rejection = Rejection(1000, "vm", 7, "text")
    assert [each.outcome for each in diagnosis.judge_layout(layout, {"a": 16}, None, 0)] == ["ok"]
    assert [each.outcome for each in diagnosis.judge_layout(layout, {"a": 8, "b": 5, "c": 3}, None, 0)] == ["ok"]
    (uneven,) = diagnosis.judge_layout(layout, {"a": 9, "b": 4, "c": 3}, None, 0)
    assert "one holds 9" in uneven.found
    (empty, rejected) = diagnosis.judge_layout(layout, {"a": 8, "b": 8, "c": 0}, rejection, 5000)[::-1]
    assert "c holds none" in empty.found
    assert rejected.found == "process 7 on vm was rejected 4 s ago: text"


# -- samples ----------------------------------------------------------------------------------------------------------


async def test_hot_key_is_the_busiest_of_its_stream(state: StateManager) -> None:
    for number in range(200):
        await state.set("orders", "hot", number)
        if number % 10 == 0:
            await state.set("orders", f"cold{number}", number)
    async with open_namespace(state, "test") as (router, keyspace):
        known = await registry.read(router, keyspace)
        first, *_ = await sampling.read_hot_keys(router, keyspace, known.now)
    assert first.event == {"scope": "orders", "key": "hot"}
    assert 100 <= first.changes <= 200
    assert 10 < first.per_second <= 200


async def test_groups_are_counted_within_the_bounds_of_a_call(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    stream = f"{{{namespace}:0}}:events:0"
    for number in range(30):
        raw.xadd(stream, {"a": "x" if number % 3 else "y", "b": "z" * 1000, "c": "1:1"})

    async def group(**bounds: int) -> administration.GroupedEntries:
        async with open_namespace(state, "test") as (router, _):
            options = {"most": 100, "max_bytes": 1_000_000, "groups": 5} | bounds
            (found,) = await administration.group_entries(router, [stream.encode()], fields=("a", "d"), **options)
            return found

    found = await group()
    assert (found.length, found.seen) == (30, 30)
    assert [(each.entries, each.contents) for each in found.groups] == [(20, ("x", "")), (10, ("y", ""))]
    assert found.groups[0].newest == raw.xrevrange(stream, count=1)[0][0]
    assert found.oldest == raw.xrange(stream, count=1)[0][0]
    assert (await group(most=7)).seen == 7
    assert 5 <= (await group(max_bytes=5000)).seen <= 8
    assert len((await group(groups=1)).groups) == 1


async def test_causes_of_dead_letters_name_error_and_place(state: StateManager) -> None:
    async def fail(input: Any) -> None:
        raise (KeyError if isinstance(input, dict) else ValueError)

    async with working(state, failing_step(fail, "Sick", queue("mail"), state_trigger(scope="orders"))):
        for number in range(4):
            await state.enqueue("mail", {"number": number})
        await state.set("orders", "1", 1)
        await wait_for_dead_letters(DeadLetters(state), 5)
    async with open_namespace(state, "test") as (router, keyspace):
        letters = (await sampling.read_letters(router, keyspace, ["Sick", "Other"]))["Sick"]
    assert letters.seen == 5
    assert letters.causes == {Cause("KeyError", "mail", ""): 4, Cause("ValueError", "", "orders"): 1}


async def test_largest_scopes_and_values_are_found_among_others(state: StateManager) -> None:
    await state.set_many("large", {f"key{number}": number for number in range(30)})
    for number in range(40):
        await state.set(f"small{number}", "key", "x")
    await state.set("values", "big", "x" * 5000)
    async with open_namespace(state, "test") as (router, keyspace):
        sizes = await sampling.read_sizes(router, keyspace)
    assert (sizes.scopes, sizes.scopes_seen) == (42, 42)
    assert sizes.largest_scopes[0] == ("large", 30)
    assert sizes.values_seen <= 20 + 41
    assert all(len(each) == 3 for each in sizes.largest_values)


async def test_memory_is_held_by_the_step_that_has_handled_the_least(
    state: StateManager, raw: redis.Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "_LEAST_HELD", 20_000)
    started, gate = asyncio.Event(), asyncio.Event()

    async def slow(input: Any) -> None:
        started.set()
        await gate.wait()

    behind = failing_step(slow, "Behind", state_trigger(scope="orders", key="1"))
    async with working(state, record(Recorder(), state_trigger(scope="orders")), behind):
        await state.set("orders", "1", "x")
        await started.wait()
        for number in range(100):
            await state.set("orders", "1", str(number) * 500)
        await wait_until_drained(raw, namespace, "Record")
        async with open_namespace(state, "test") as (router, keyspace):
            held = await sampling.read_held(router, await registry.read(router, keyspace))
        gate.set()
    assert held.keys() == {"Behind"}
    assert (held["Behind"].streams, held["Behind"].entries, held["Behind"].is_exact) == (1, 101, True)
    assert held["Behind"].bytes > 50_000


# -- rejected processes -----------------------------------------------------------------------------------------------


async def test_rejected_process_leaves_a_record_that_expires(
    state: StateManager, server: RedisServer, raw: redis.Redis, namespace: str
) -> None:
    await state.connect()
    router = await state.open_router()
    try:
        assert await read_rejection(router, namespace) is None
        with pytest.raises(LayoutMismatch) as layout:
            await StateManager(server.url, namespace=namespace, layout=Layout(3, 3)).connect()
        found = await read_rejection(router, namespace)
        assert found is not None
        assert found.text == str(layout.value)
        assert 0 < raw.pttl(f"{namespace}:rejected") <= 600_000
        with pytest.raises(SettingsMismatch) as settings:
            await StateManager(server.url, namespace=namespace, retention=Retention(entries=7)).connect()
        found = await read_rejection(router, namespace)
        assert found is not None
        assert found.text == str(settings.value)
        raw.set(f"{namespace}:rejected", "other")
        assert await read_rejection(router, namespace) is None
    finally:
        await router.aclose()


# -- cost and permissions ---------------------------------------------------------------------------------------------


async def test_examination_reads_no_whole_scope_and_never_scans_the_keyspace(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        async with StateManager(server.url) as state:
            for start in range(0, 5000, 100):
                await state.set_many("orders", {f"key{number}": "x" * 100 for number in range(start, start + 100)})
            client.config_resetstat()
            found = await examine(state)
            sent = client.info("stats")["total_net_output_bytes"]
            commands = {name.removeprefix("cmdstat_"): call["calls"] for name, call in client.info("commandstats").items()}
    assert [finding for finding in found.findings if finding.outcome == "failed"] == []
    assert not commands.keys() & {"keys", "scan", "hscan", "hvals", "hkeys", "smembers"}
    assert sum(commands.values()) < 3000
    assert sent < 200_000, "5,000 values of 100 bytes are not read"


async def test_checks_are_unknown_when_the_user_may_not_run_what_they_need(
    state: StateManager, server: RedisServer, raw: redis.Redis, namespace: str
) -> None:
    await state.set("orders", "1", 1)
    async with working(state, record(Recorder(), state_trigger(scope="orders"))):
        raw.execute_command("ACL", "SETUSER", namespace, "on", ">secret", "~*", "+@all", "-memory", "-hrandfield")
        try:
            async with StateManager(f"unix://{namespace}:secret@{server.socket}", namespace=namespace) as limited:
                found = await examine(limited)
        finally:
            raw.execute_command("ACL", "DELUSER", namespace)
    unknown = {finding.check for finding in found.findings if finding.outcome == "unknown"}
    assert unknown == {"held-memory", "large-scopes", "large-values"}
    assert all("ACL rule" in finding.remedy for finding in found.findings if finding.outcome == "unknown")
