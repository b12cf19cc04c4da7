"""Copies of namespaces: the same values, messages, schedules and dead letters in another layout, nothing lost or doubled."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import Layout, Retention, StateManager, cron, queue
from motia_redis import state as state_trigger
from motia_redis._admin import copying
from motia_redis._admin.copy_values import ValueCopy
from motia_redis._store import expiry
from motia_redis.admin import DeadLetters, Scheduled, compare_copy, copy_changes, finish_copy, forget_step, read_status
from motia_redis.errors import HistoryForked, LayoutMismatch, SettingsMismatch, StateError
from tests.support.clocks import set_namespace_clock
from tests.support.copies import WIDE, Writers, copy_once, dumped, finish, stored, target
from tests.support.dead_letters import FailingHandler, failing_step, wait_for_dead_letters
from tests.support.servers import PACKAGED, RedisServer, packaged
from tests.support.waiting import until, until_holds
from tests.support.watching import take_changes
from tests.support.workers import Recorder, record, working

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import redis

    from motia_redis.admin import CopyProgress, Status


@pytest.fixture
def copied(namespace: str) -> str:
    """The namespace of the copy."""
    return f"{namespace}-copy"


@pytest.fixture
async def filled(state: StateManager) -> StateManager:
    for number in range(10):
        await state.set_many(f"filled{number}", {f"key{key}": {"n": key} for key in range(50)})
    return state


# -- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
async def test_copy_to_another_layout_under_writers_has_every_value_as_it_is_stored(
    seed: int, server: RedisServer, filled: StateManager, namespace: str, copied: str, raw: redis.Redis
) -> None:
    equal = asyncio.Event()
    async with StateManager(server.url, namespace=namespace, sweep=True) as sweeping, target(server.url, copied) as manager:
        await sweeping.get("any", "key")
        async with Writers(filled, seed) as writers:
            following = asyncio.create_task(copy_changes(filled, manager, follow=True, equal=equal.set))
            async with asyncio.timeout(60):
                await equal.wait()
            seen = writers.changes
            await until_holds(lambda: writers.changes > seen + 200, "changes are followed")
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    done = await finish(filled, server.url, copied)
    assert (done.is_finished, done.obstacles, done.differences, done.late) == (True, [], [], [])
    assert stored(raw, copied) == stored(raw, namespace)
    assert [part.kind for part in done.compared] == ["values", "messages", "delayed messages", "schedules", "dead letters"]
    values = done.compared[0]
    assert values.source == values.target == len(stored(raw, namespace))
    assert values.source_checksum == values.target_checksum != "0" * 16
    async with StateManager(server.url, namespace=copied) as moved:
        assert (await moved.connect()).layout == WIDE
        entry = await moved.entry("filled1", "key1")
        assert entry is not None
        assert await moved.set("filled1", "key1", 2, if_revision=entry.revision) == 2


async def test_copies_all_bytes_of_values_that_other_clients_wrote(
    server: RedisServer, state: StateManager, namespace: str, copied: str, raw: redis.Redis
) -> None:
    keyspace = await state.connect()
    texts = {b"plain": b'{"a": 1.50}', b"": b"1", b"\xff": b"no JSON", b"empty": b"", b"big": b"9" * 300_000}
    for scope in (b"foreign", b"\xfe"):
        raw.hset(keyspace.values(scope), mapping=texts)  # type: ignore[arg-type]
        raw.sadd(keyspace.scopes(keyspace.partition(scope)), scope)
    await state.set("mine", "ä", 1, ttl=1000)
    done = await finish(state, server.url, copied)
    assert done.is_finished, done
    assert stored(raw, copied) == stored(raw, namespace)
    assert len(stored(raw, copied)) == 2 * len(texts) + 1


async def test_events_of_a_copy_say_so_and_fire_no_trigger(
    server: RedisServer, filled: StateManager, copied: str, raw: redis.Redis
) -> None:
    await filled.set("s", "changed", 1)
    await copy_once(filled, server.url, copied)
    await filled.set("s", "changed", 2)
    await filled.delete("filled1", "key1")
    assert (await finish(filled, server.url, copied)).is_finished
    streams = list(raw.scan_iter(f"{{{copied}:*}}:events:*"))
    for stream in streams:
        raw.xgroup_create(stream, "Record", "0")  # so that the step reads what the copy wrote
    async with StateManager(server.url, namespace=copied) as moved:
        recorder = Recorder()
        async with working(moved, record(recorder, state_trigger())):
            await moved.set("s", "new", 3)
            await recorder.wait(1)
    assert [(change.item_id, change.new_value) for change in recorder.inputs] == [("new", 3)]
    reasons = [fields.get(b"reason") for stream in streams for _, fields in raw.xrange(stream)]
    assert (reasons.count(b"copy"), len(reasons)) == (503, 504)


async def test_watch_shows_the_reason_of_a_copy(server: RedisServer, state: StateManager, copied: str) -> None:
    await state.set("s", "k", 1)
    async with target(server.url, copied) as manager:
        await copy_changes(state, manager)
        async with manager.watch("s") as watch:
            await state.set("s", "k", 2)
            await state.delete("s", "k")
            await state.set("s", "other", 1)
            await copy_changes(state, manager)
            found = await take_changes(watch, 2)
    assert {(change.type, change.key, change.reason) for change in found} == {
        ("state:deleted", "k", "copy"),
        ("state:created", "other", "copy"),
    }


# -- time to live -----------------------------------------------------------------------------------------------------


async def test_a_value_that_expires_at_the_source_is_gone_from_the_copy(
    server: RedisServer, filled: StateManager, namespace: str, copied: str, raw: redis.Redis
) -> None:
    await filled.set("s", "gone", 1, ttl=0.3)
    await filled.set("s", "stays", 1, ttl=1000)
    await copy_once(filled, server.url, copied)
    assert (b"s", b"gone") in stored(raw, copied)

    async def expired() -> bool:
        return await filled.count("s") == 1  # which lets happen what is due

    await until(expired, "the value has expired")
    assert (await finish(filled, server.url, copied)).is_finished
    assert (b"s", b"gone") not in stored(raw, copied)
    assert stored(raw, copied)[b"s", b"stays"] == stored(raw, namespace)[b"s", b"stays"]
    due = [raw.zrange(name, 0, -1, withscores=True) for name in raw.scan_iter(f"{{{copied}:*}}:due")]
    (((member, score),),) = [page for page in due if page]
    assert member.endswith(b"sstays")
    at = expiry.expires_at(stored(raw, namespace)[b"s", b"stays"])
    assert at is not None
    assert score == pytest.approx(at * 1000)


async def test_an_expiry_that_nobody_noticed_at_the_source_fires_once_at_the_copy(
    server: RedisServer, filled: StateManager, copied: str
) -> None:
    await filled.set("s", "k", "old", ttl=0.05)
    await until_holds(lambda: True, "now")
    expires = time.time() + 0.1
    await until_holds(lambda: time.time() > expires, "the time has passed")
    assert (await finish(filled, server.url, copied)).is_finished
    async with StateManager(server.url, namespace=copied) as moved:
        recorder = Recorder()
        assert await moved.get("s", "k") is None
        async with working(moved, record(recorder, state_trigger())):
            await recorder.wait(1)
            await moved.set("s", "last", 1)
            await recorder.wait(2)
    handled = [(change.item_id, change.reason, change.old_value) for change in recorder.inputs]
    assert handled == [("k", "expired", "old"), ("last", None, None)]


# -- messages, schedules, dead letters --------------------------------------------------------------------------------


async def test_unread_messages_are_handled_once_at_the_copy_in_order_and_read_ones_are_not(
    server: RedisServer, filled: StateManager, copied: str
) -> None:
    read, unread = Recorder(), Recorder()
    async with working(filled, record(read, queue("read"))):
        await filled.enqueue("read", "done")
        await read.wait(1)
        sent = [await filled.enqueue("unread", number, key=f"key{number % 3}") for number in range(60)]
        await filled.enqueue("unread", "without a key")
    done = await finish(filled, server.url, copied)
    assert done.is_finished, done
    assert (done.compared[1].source, done.compared[1].target) == (61, 61)
    async with StateManager(server.url, namespace=copied) as moved:
        assert [(topic.name, topic.messages) for topic in (await read_status(moved)).topics] == [("unread", 61)]
        async with working(moved, record(unread, queue("unread")), record(read, queue("read"), name="Read")):
            await unread.wait(61)
            await moved.enqueue("read", "new")
            await read.wait(2)
    assert sorted(map(str, unread.inputs)) == sorted([*map(str, range(60)), "without a key"])
    for key in range(3):
        assert [number for number in unread.inputs if number != "without a key" and number % 3 == key] == list(range(key, 60, 3))
    assert {context.trigger.message_id for context in unread.contexts} >= set(sent)
    assert read.inputs == ["done", "new"]


async def test_delayed_messages_keep_their_ids_and_times(server: RedisServer, filled: StateManager, copied: str) -> None:
    sent = [
        await filled.enqueue(f"topic{number}", {"n": number}, key=None if number % 2 else "k", delay=1000) for number in range(30)
    ]
    soon = await filled.enqueue("soon", "now", delay=0.05)
    before = await Scheduled(filled).list()
    done = await finish(filled, server.url, copied)
    assert done.is_finished, done
    async with StateManager(server.url, namespace=copied) as moved:
        after = await Scheduled(moved).list()
        assert sorted(after, key=lambda message: message.id) == sorted(before, key=lambda message: message.id)
        assert [await moved.cancel(message) for message in sent[:10]] == [True] * 10
        assert [await moved.cancel(message) for message in sent[:10]] == [False] * 10
        recorder = Recorder()
        async with working(moved, record(recorder, queue("soon"))):
            await recorder.wait(1)
        assert recorder.contexts[0].trigger.message_id == soon
        assert await Scheduled(moved).count() == 20


async def test_schedules_go_on_at_the_copy(server: RedisServer, filled: StateManager, copied: str, raw: redis.Redis) -> None:
    recorder, step = Recorder(), {"name": "Tick"}
    ticking = record(recorder, cron("* * * * * *"), cron("0 3 * * *"), **step)
    async with working(filled, ticking):
        await recorder.wait(1)

    def at_three(status: Status) -> float | None:
        (step,) = status.steps
        return next(schedule.next_in for schedule in step.schedules if "0 3 * * *" in schedule.name)

    done = await finish(filled, server.url, copied)
    assert done.is_finished, done
    assert (done.compared[3].source, done.compared[3].target) == (2, 2)
    handled = len(recorder.inputs)
    async with StateManager(server.url, namespace=copied) as moved:
        wait = at_three(await read_status(moved))
        assert wait == pytest.approx(at_three(await read_status(filled)), abs=20)
        assert wait is not None
        await set_namespace_clock(moved, wait + 1)
        async with working(moved, record(Recorder(), queue("other"), name="Other")):  # it finds the time due, and not the step

            async def has_fired() -> bool:
                return sum(map(raw.xlen, raw.scan_iter(f"{{{copied}:*}}:cron:Tick"))) >= 1

            await until(has_fired, "the time has fired")
        async with working(moved, ticking):
            await recorder.wait(handled + 2)
    times = [fired.scheduled_at for fired in recorder.inputs]
    assert times == sorted(set(times))  # none fired twice
    assert any(fired.expression == "0 3 * * *" for fired in recorder.inputs)


async def test_dead_letters_are_listed_and_retried_at_the_copy(server: RedisServer, filled: StateManager, copied: str) -> None:
    handler = FailingHandler()
    step = failing_step(handler, "Fails", state_trigger(scope="bad"), queue("bad"))
    async with working(filled, step):
        for number in range(5):
            await filled.set("bad", f"key{number}", number)
            await filled.enqueue("bad", number, key=f"key{number}")
        before = await wait_for_dead_letters(DeadLetters(filled), 10)
    done = await finish(filled, server.url, copied)
    assert done.is_finished, done
    assert (done.compared[4].source, done.compared[4].target) == (10, 10)

    def facts(letter: Any) -> tuple[Any, ...]:
        return (letter.step, letter.key, letter.time, letter.error_text, letter.traceback, letter.attempts, letter.revision)

    async with StateManager(server.url, namespace=copied) as moved:
        letters = DeadLetters(moved)
        after = await letters.list()
        assert sorted(map(facts, after)) == sorted(map(facts, before))
        assert [letter.time for letter in after] == sorted(letter.time for letter in after)
        handler.fixed = True
        async with working(moved, step):
            assert await letters.retry_all() == (10, [])
            await handler.received.wait(10)
        assert await letters.count() == 0
    values = [value.new_value if hasattr(value, "new_value") else value for value in handler.received.inputs]
    assert sorted(values) == sorted([*range(5), *range(5)])


# -- the end ----------------------------------------------------------------------------------------------------------


async def test_the_source_is_not_changed(
    server: RedisServer, filled: StateManager, namespace: str, copied: str, raw: redis.Redis
) -> None:
    await filled.enqueue("topic", 1)
    await filled.enqueue("topic", 1, delay=0.01)
    await filled.set("s", "k", 1, ttl=0.01)
    before = dumped(raw, namespace)
    await copy_once(filled, server.url, copied)
    assert (await finish(filled, server.url, copied)).is_finished
    assert dumped(raw, namespace) == before


async def test_no_other_process_can_open_a_copy_before_it_is_finished(
    server: RedisServer, filled: StateManager, namespace: str, copied: str
) -> None:
    await copy_once(filled, server.url, copied)
    async with target(server.url, copied, None) as other:
        with pytest.raises(LayoutMismatch, match=rf"'{copied}' is a copy of namespace '{namespace}' of .*16x8 that is not"):
            await other.get("s", "k")
    assert (await finish(filled, server.url, copied)).is_finished
    async with target(server.url, copied, None) as other:
        assert await other.get("filled1", "key1") == {"n": 1}


async def test_a_running_worker_and_what_is_not_handled_are_named(server: RedisServer, filled: StateManager, copied: str) -> None:
    async with working(filled, record(Recorder(), state_trigger(scope="s"), queue("topic"))):
        done = await finish(filled, server.url, copied)
        assert not done.is_finished
        (text,) = done.obstacles
        assert text.startswith("a worker runs: process ")
    await filled.set("s", "k", 1)
    await filled.enqueue("topic", 1)
    done = await finish(filled, server.url, copied)
    assert (done.is_finished, done.compared) == (False, [])
    (text,) = done.obstacles
    assert text.startswith("step 'Record' has not handled 2 entries: let its workers handle them, or forget the step")
    await forget_step(filled, "Record")
    done = await finish(filled, server.url, copied)
    assert (done.is_finished, done.compared[1].target) == (True, 1)  # the message is unread again


async def test_a_writer_that_goes_on_is_named(
    server: RedisServer, filled: StateManager, copied: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = copying.compare_values

    async def compare_and_write(source: StateManager, *rest: Any, **options: Any) -> Any:
        compared = await compare(source, *rest, **options)
        await source.set("s", "late", 1)
        return compared

    with monkeypatch.context() as patch:
        patch.setattr(copying, "compare_values", compare_and_write)
        done = await finish(filled, server.url, copied)
    assert (done.is_finished, done.differences, done.late) == (False, [], ["scope 's' key 'late': 1 changes"])
    done = await finish(filled, server.url, copied)
    assert (done.is_finished, done.late) == (True, [])
    await filled.set("s", "later", 1)
    await filled.enqueue("topic", 1)
    again = await finish(filled, server.url, copied)
    assert again.is_finished
    assert again.late == ["scope 's' key 'later': 1 changes", "messages: 1 now, 0 when the copy was finished, or other ones"]


async def test_a_planted_difference_is_named_and_repaired(
    server: RedisServer, filled: StateManager, namespace: str, copied: str, raw: redis.Redis
) -> None:
    await copy_once(filled, server.url, copied)
    async with target(server.url, copied) as manager:
        keyspace = await manager_keyspace(manager)
        assert (await compare_copy(filled, manager)).differences == []
        raw.hset(keyspace.values(b"filled1"), "key1", '{"n":1 }')
        raw.hdel(keyspace.values(b"filled2"), "key2")
        raw.hset(keyspace.values(b"filled3"), "new", "1")
        raw.hset(keyspace.values(b"filled4"), "key4", '{"n":5}')
        compared = await compare_copy(filled, manager)
    wanted = [
        "scope 'filled1' key 'key1': another value at the target",
        "scope 'filled2' key 'key2': only at the source",
        "scope 'filled3' key 'new': only at the target",
        "scope 'filled4' key 'key4': another value at the target",
    ]
    assert sorted(compared.differences) == wanted
    assert (compared.source, compared.target) == (500, 500)
    assert compared.source_checksum != compared.target_checksum
    done = await finish(filled, server.url, copied)
    assert (done.is_finished, sorted(done.differences)) == (False, wanted)
    done = await finish(filled, server.url, copied, again=True)
    assert (done.is_finished, done.differences) == (True, [])
    assert stored(raw, copied) == stored(raw, namespace)


async def manager_keyspace(manager: StateManager) -> Any:
    manager._sessions.in_copy = True
    return await manager.connect()


@pytest.mark.parametrize("kind", ["messages", "delayed messages", "dead letters"])
async def test_a_difference_of_what_is_no_value_is_named(
    kind: str, server: RedisServer, filled: StateManager, copied: str, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with working(filled, failing_step(FailingHandler(), "Fails", queue("bad"))):
        await filled.enqueue("bad", 1)
        await wait_for_dead_letters(DeadLetters(filled), 1)
    await filled.enqueue("unread", 1)
    await filled.enqueue("later", 1, delay=1000)
    copy_others = copying.copy_others.copy_others

    async def copy_and_harm(source: Any, other: Any) -> None:
        await copy_others(source, other)
        pattern = {"messages": "topic:*:unread", "delayed messages": "delayed", "dead letters": "dead:Fails"}[kind]
        (name,) = raw.scan_iter(f"{{{copied}:*}}:{pattern}")
        if kind == "delayed messages":
            raw.delete(name)
        else:
            raw.xadd(name, {"step": "Fails", "time": "1"})

    monkeypatch.setattr(copying.copy_others, "copy_others", copy_and_harm)
    done = await finish(filled, server.url, copied)
    assert not done.is_finished
    counts = "1 at the source, 0 at the target" if kind == "delayed messages" else "1 at the source, 2 at the target"
    label = {"messages": "unread", "delayed messages": "later", "dead letters": "Fails"}[kind]
    assert done.differences == [f"{label}: {counts}"]
    monkeypatch.undo()
    done = await finish(filled, server.url, copied)
    assert (done.is_finished, done.differences) == (True, [])


# -- going on ---------------------------------------------------------------------------------------------------------


async def test_copy_goes_on_after_it_was_interrupted_anywhere(
    server: RedisServer, filled: StateManager, namespace: str, copied: str, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(120):
        await filled.enqueue("unread", number, key="k")
    for number in range(20):
        await filled.enqueue("later", number, delay=1000)
    limit, calls = 0, 0
    store, save = ValueCopy._store, ValueCopy.save

    async def interrupt(call: Any, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == limit:
            raise RuntimeError("interrupted")
        await call(*arguments)

    monkeypatch.setattr(ValueCopy, "_store", lambda self, page: interrupt(store, self, page))
    monkeypatch.setattr(ValueCopy, "save", lambda self, mark=None: interrupt(save, self, mark))
    monkeypatch.setattr(copying.copy_others, "_add_message", failing_after(copying.copy_others._add_message, 110))
    interruptions = 0
    while True:
        limit, calls = limit + 1, 0
        await filled.set("s", f"key{limit}", limit)
        await filled.delete("filled1", f"key{limit}")
        try:
            done = await finish(filled, server.url, copied)
        except RuntimeError:
            interruptions += 1
            continue
        break
    assert interruptions >= 8
    assert (done.is_finished, done.differences) == (True, [])
    assert stored(raw, copied) == stored(raw, namespace)
    assert sum(map(raw.xlen, raw.scan_iter(f"{{{copied}:*}}:topic:*:unread"))) == 120
    async with StateManager(server.url, namespace=copied) as moved:
        assert await Scheduled(moved).count() == 20


def failing_after(call: Any, count: int) -> Any:
    """Return a function that fails once, after so many calls."""
    calls = iter(range(count))
    has_failed: list[bool] = []

    def work(*arguments: Any) -> Any:
        if next(calls, None) is None and not has_failed:
            has_failed.append(True)
            raise RuntimeError("interrupted")
        return call(*arguments)

    return work


@pytest.mark.usefixtures("every_change_looks")
async def test_values_that_were_deleted_while_their_events_were_trimmed_are_deleted(
    server: RedisServer, namespace: str, copied: str, raw: redis.Redis
) -> None:
    retention = Retention(entries=1, seconds=0.0)
    async with StateManager(server.url, namespace=namespace, retention=retention, deadline=0.0) as source:
        for number in range(200):
            await source.set("s", f"key{number}", number)
        await copy_once(source, server.url, copied)
        for number in range(0, 200, 2):
            await source.delete("s", f"key{number}")
        for number in range(2000):
            await source.set("s", f"other{number % 100}", number)
        await copy_once(source, server.url, copied)
        assert stored(raw, copied) == stored(raw, namespace)
        assert sum(key.startswith(b"key") for _, key in stored(raw, copied)) == 100
        assert (await finish(source, server.url, copied)).is_finished


async def test_a_source_that_lost_its_data_does_not_empty_the_copy(tmp_path: Path, server: RedisServer, raw: redis.Redis) -> None:
    import redis

    with RedisServer(tmp_path) as own, redis.Redis.from_url(own.url) as own_raw:
        async with StateManager(own.url, namespace="lost") as source:
            await source.set_many("s", {str(number): number for number in range(50)})
            await copy_once(source, server.url, "lost-copy")
            own_raw.flushall()
            await source.set("s", "new", 1)
            with pytest.raises(HistoryForked, match=r"check that the source has what it should have.*--again"):
                await copy_once(source, server.url, "lost-copy")
            assert len(stored(raw, "lost-copy")) == 50
            await copy_once(source, server.url, "lost-copy", again=True)
            assert list(stored(raw, "lost-copy")) == [(b"s", b"new")]


async def test_progress_tells_how_far_values_changes_and_the_comparison_have_come(
    server: RedisServer, filled: StateManager, copied: str
) -> None:
    for number in range(10, 20):
        await filled.set_many(f"filled{number}", {f"key{key}": key for key in range(100)})
    reports: list[CopyProgress] = []
    equal = asyncio.Event()
    async with target(server.url, copied) as manager:
        copy = copy_changes(filled, manager, follow=True, progress=reports.append, equal=equal.set)
        following = asyncio.create_task(copy)
        await equal.wait()
        await until_holds(lambda: ("changes", 0, 0) in reports, "the copy is not behind")
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    values = [report for report in reports if report.phase == "values"]
    assert {report.total for report in values} == {1500}
    assert [report.done for report in values] == sorted(report.done for report in values)
    assert values[-1].done == 1500
    reports.clear()
    async with target(server.url, copied) as manager:
        await finish_copy(filled, manager, progress=reports.append)
    assert reports[-1] == ("comparing", 3000, 3000)


# -- what is rejected -------------------------------------------------------------------------------------------------


@pytest.fixture
async def used(server: RedisServer, namespace: str) -> AsyncIterator[StateManager]:
    async with StateManager(server.url, namespace=f"{namespace}-used") as manager:
        await manager.set("s", "k", 1)
        yield manager


async def test_a_target_that_cannot_be_a_copy_is_rejected(
    server: RedisServer, filled: StateManager, used: StateManager, namespace: str, copied: str, raw: redis.Redis
) -> None:
    with pytest.raises(StateError, match="cannot be copied into itself"):
        await copy_once(filled, server.url, namespace)
    before = dumped(raw, used.namespace)
    with pytest.raises(StateError, match="is not empty, and no copy"):
        await copy_once(filled, server.url, used.namespace, None)
    with pytest.raises(LayoutMismatch, match=r"exists with Layout\(partitions=16, lanes=8\), and .*64"):
        await copy_once(filled, server.url, used.namespace)
    assert dumped(raw, used.namespace) == before
    await copy_once(filled, server.url, copied)
    with pytest.raises(StateError, match=f"is a copy of namespace '{namespace}' of .*, not of namespace '{used.namespace}'"):
        await copy_once(used, server.url, copied)
    assert (await finish(filled, server.url, copied)).is_finished
    with pytest.raises(StateError, match="that is finished"):
        await copy_once(filled, server.url, copied)
    with pytest.raises(StateError, match="finished, and may be in use"):
        await finish(filled, server.url, copied, again=True)


async def test_an_empty_source_is_rejected(server: RedisServer, state: StateManager, copied: str, raw: redis.Redis) -> None:
    with pytest.raises(StateError, match="holds nothing"):
        await copy_once(state, server.url, copied)
    assert dumped(raw, copied) == {}


async def test_settings_go_with_the_copy(server: RedisServer, namespace: str, copied: str) -> None:
    retention = Retention(dead_letters=7)
    async with StateManager(server.url, namespace=namespace, retention=retention, deadline=33.0) as source:
        await source.set("s", "k", 1)
        other = f"{copied}2"
        async with StateManager(server.url, namespace=other, layout=WIDE) as empty:
            await empty.connect()
        with pytest.raises(SettingsMismatch, match="has other settings than"):
            await copy_once(source, server.url, other)
        assert (await finish(source, server.url, copied)).is_finished
        async with StateManager(server.url, namespace=copied) as moved:
            assert await moved.settings() == await source.settings()


async def test_two_processes_cannot_copy_into_one_namespace(
    server: RedisServer, filled: StateManager, copied: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("motia_redis._admin.copy_target._HOLD", 1.0)
    monkeypatch.setattr("motia_redis._admin.copy_target._RENEWAL", 0.1)
    monkeypatch.setattr("motia_redis._admin.copy_target._POLL", 0.1)
    equal = asyncio.Event()
    async with target(server.url, copied) as manager:
        following = asyncio.create_task(copy_changes(filled, manager, follow=True, equal=equal.set))
        await equal.wait()
        with pytest.raises(StateError, match=f"another process copies into namespace '{copied}': process \\d+ on "):
            await finish(filled, server.url, copied)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    assert (await finish(filled, server.url, copied)).is_finished


async def test_a_process_that_lost_its_hold_writes_nothing_more(
    server: RedisServer, filled: StateManager, copied: str, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("motia_redis._admin.copy_target._RENEWAL", 0.05)
    equal = asyncio.Event()
    async with target(server.url, copied) as manager:
        following = asyncio.create_task(copy_changes(filled, manager, follow=True, equal=equal.set))
        await equal.wait()
        raw.set(f"{copied}:copying", "other process 1 on elsewhere")
        with pytest.raises(StateError, match="has lost its hold"):
            await asyncio.wait_for(following, 8)  # before the hold has run out
    assert raw.get(f"{copied}:copying") == b"other process 1 on elsewhere"


@pytest.mark.parametrize("program", PACKAGED)
async def test_copy_to_another_kind_of_server(
    program: str, tmp_path: Path, server: RedisServer, filled: StateManager, namespace: str, raw: redis.Redis
) -> None:
    import redis

    await filled.enqueue("unread", 1)
    await filled.enqueue("later", 1, delay=1000)
    with RedisServer(tmp_path, program=packaged(program)) as other, redis.Redis.from_url(other.url) as other_raw:
        async with Writers(filled, 7):
            await copy_once(filled, other.url, namespace, Layout(5, 3))
        done = await finish(filled, other.url, namespace, None)
        assert (done.is_finished, done.differences) == (True, [])
        assert stored(other_raw, namespace) == stored(raw, namespace)
        async with StateManager(other.url, namespace=namespace) as moved:
            assert (await moved.connect()).layout == Layout(5, 3)
