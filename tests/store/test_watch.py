"""A watch yields every change once, in the order of each key, from the place where it started (G12)."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import Layout, Retention, StateManager
from motia_redis._store import feed as feeds
from motia_redis._store import watch as watches
from motia_redis.errors import (
    CorruptValue,
    HistoryForked,
    HistoryGone,
    InvalidCursor,
    InvalidName,
    StateUnavailable,
    WatchMisused,
    WatchOverflow,
)  # fmt: skip
from motia_redis.types import Bookmark, Change, Synced
from tests.support.waiting import until, until_holds
from tests.support.watching import PATIENCE, facts, take, take_changes, take_snapshot

if TYPE_CHECKING:
    import redis

    from motia_redis.types import Watch
    from tests.support.servers import RedisServer

pytestmark = pytest.mark.usefixtures("each_way")


async def test_watch_yields_what_is_changed_after_it_has_begun(state: StateManager, second: StateManager) -> None:
    await state.set("carts", "a", 1)
    async with state.watch("carts") as watch:
        await second.set("carts", "a", {"n": 2})
        await second.update("carts", "a", [{"op": "increment", "path": "/n", "value": 1}])
        await second.set("other", "a", 0)
        await state.delete("carts", "a")
        changes = await take_changes(watch, 3)
    assert [facts(change) for change in changes] == [
        ("updated", "a", {"n": 2}),
        ("updated", "a", {"n": 3}),
        ("deleted", "a", None),
    ]
    assert [change.old_value for change in changes] == [1, {"n": 2}, {"n": 3}]
    assert [change.reason for change in changes] == [None, None, "deleted"]
    assert {change.scope for change in changes} == {"carts"}
    assert changes[1].timestamp == int(changes[1].revision.split("-")[0])


async def test_watch_of_a_key_and_of_a_prefix_yield_only_theirs(state: StateManager) -> None:
    async with state.watch("users", "ann") as of_key, state.watch("users", prefix="a") as of_prefix, state.watch(None) as of_all:
        for scope, key in [("users", "bob"), ("users", "ann"), ("users", "anton"), ("carts", "ann"), ("users", "ann")]:
            await state.set(scope, key, 1)
        assert [change.key for change in await take_changes(of_key, 2)] == ["ann", "ann"]
        assert sorted(change.key for change in await take_changes(of_prefix, 3)) == ["ann", "ann", "anton"]
        assert sorted((each.scope, each.key) for each in await take_changes(of_all, 5)) == [
            ("carts", "ann"), ("users", "ann"), ("users", "ann"), ("users", "anton"), ("users", "bob"),
        ]  # fmt: skip


async def test_changes_of_a_key_come_in_their_order_from_many_writers(state: StateManager, second: StateManager) -> None:
    async with state.watch("counters") as watch:
        for manager in (state, second):
            await asyncio.gather(
                *(manager.update("counters", str(n % 5), [{"op": "increment", "path": "/n", "value": 1}]) for n in range(100))
            )
        changes = await take_changes(watch, 200)
    for key in "01234":
        assert [change.value["n"] for change in changes if change.key == key] == list(range(1, 41))


async def test_what_expires_and_gets_a_time_is_yielded(state: StateManager) -> None:
    async with state.watch("sessions") as watch:
        await state.set("sessions", "a", 1, ttl=1000)
        await state.expire("sessions", "a", 0.02)
        created, changed = await take_changes(watch, 2)
        assert created.expires_at is not None
        assert facts(changed) == ("ttl", "a", 1)
        assert changed.expires_at is not None
        assert changed.expires_at < created.expires_at

        async def has_expired() -> bool:
            return not await state.count("sessions")

        await until(has_expired, "the value has expired")
        (gone,) = await take_changes(watch, 1)
    assert (facts(gone), gone.reason, gone.old_value, gone.is_deletion) == (("deleted", "a", None), "expired", 1, True)


# -- snapshots ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["users", None])
async def test_snapshot_has_each_value_once_and_then_its_end(state: StateManager, scope: str | None) -> None:
    values = {f"key {number}": {"n": number} for number in range(700)}
    await state.set_many("users", dict(list(values.items())[:50]))
    await asyncio.gather(*(state.set("users", key, value) for key, value in values.items()))
    async with state.watch(scope, start="snapshot") as watch:
        changes = await take_snapshot(watch)
        assert len(changes) == len(values)
        assert {change.key: change.value for change in changes} == values
        assert {(change.type, change.old_value) for change in changes} == {("state:snapshot", None)}
        entry = await state.entry("users", changes[0].key)
        assert entry is not None
        assert entry.revision == changes[0].revision
        await state.set("users", "new", 1)
        assert facts((await take_changes(watch, 1))[0]) == ("created", "new", 1)


@pytest.mark.parametrize(("scope", "key", "prefix"), [(None, None, None), ("s", None, None), ("s", "k", None), ("s", None, "p")])
async def test_end_of_a_snapshot_comes_also_when_nothing_is_there(
    state: StateManager, scope: str | None, key: str | None, prefix: str | None
) -> None:
    async with state.watch(scope, key, prefix, start="snapshot") as watch:
        assert await take_snapshot(watch) == []


async def test_snapshot_of_a_key_and_of_a_prefix(state: StateManager) -> None:
    for key in ("ann", "anton", "bob"):
        await state.set("users", key, key)
    async with state.watch("users", "ann", start="snapshot") as watch:
        assert [facts(change) for change in await take_snapshot(watch)] == [("snapshot", "ann", "ann")]
    async with state.watch("users", prefix="an", start="snapshot") as watch:
        assert sorted(change.key for change in await take_snapshot(watch)) == ["ann", "anton"]


async def test_snapshot_has_no_expired_value_and_those_of_other_clients(state: StateManager, raw: redis.Redis) -> None:
    keys = await state.connect()
    await state.set("users", "gone", 1, ttl=0.001)
    raw.hset(keys.values(b"users"), mapping={"foreign": "[1]", "broken": "{"})
    await asyncio.sleep(0.01)
    async with state.watch("users", start="snapshot") as watch:
        found = {change.key: change for change in await take_snapshot(watch)}
    assert "gone" not in {key for key, change in found.items() if not change.is_deletion}
    assert (found["foreign"].value, found["foreign"].revision, found["foreign"].timestamp) == ([1], "0-0", 0)
    with pytest.raises(CorruptValue, match="key 'broken'"):
        _ = found["broken"].value


async def test_snapshot_while_values_change_has_no_older_value_after_a_newer_one(
    state: StateManager, second: StateManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two pages all keys change, are deleted or created. A page may be older or newer than what the feed delivers."""
    monkeypatch.setattr("motia_redis._store.scans.PAGE_ITEMS", 20)
    await asyncio.gather(*(state.set("s", str(number), [0, "x" * 200]) for number in range(600)))
    turn = 0

    async def change_some() -> None:
        nonlocal turn
        turn += 1
        for number in range(turn % 7, 620, 7):
            if (number + turn) % 5:
                await second.set("s", str(number), [turn, "x" * 200])
            else:
                await second.delete("s", str(number))

    room = watches.Buffer.room

    async def room_after_changes(self: watches.Buffer) -> None:
        if turn < 25:
            await change_some()
        await room(self)

    monkeypatch.setattr(watches.Buffer, "room", room_after_changes)
    async with state.watch("s", start="snapshot", buffer_items=100_000) as watch:
        changes = await take_snapshot(watch)
        await state.set("s", "end", 1)
        while changes[-1].key != "end":
            changes += await take_changes(watch, 1)
    assert turn >= 10
    check_order(changes)
    seen: dict[str, Any] = {}
    for change in changes:
        seen.pop(change.key, None)
        if not change.is_deletion:
            seen[change.key] = change.value
    assert seen == await state.items("s")


def check_order(changes: list[Change]) -> None:
    """Assert that the revisions of each key only grow."""
    last: dict[str, tuple[int, int]] = {}
    for change in changes:
        milliseconds, _, sequence = change.revision.partition("-")
        revision = int(milliseconds), int(sequence)
        assert revision > last.get(change.key, (0, 0)), f"{change} after {last[change.key]}"
        last[change.key] = revision


# -- cursors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["{a}/one", None])
async def test_watch_goes_on_after_the_cursor_of_any_item(state: StateManager, scope: str | None) -> None:
    """Of a change, one inside of a transaction included, of the end of a snapshot, and of a bookmark."""
    async with state.watch(scope, start="snapshot") as watch:
        (synced,) = await take(watch, 1)
        for turn in range(3):
            for number in range(5):
                await state.set("{a}/one", str(number), turn)
            async with state.transaction() as tx:
                for number in range(4):
                    tx.set("{a}/one", str(number), [turn])
                    tx.set("{a}/two", str(number), [turn])
                tx.enqueue("{a}/topic", turn)
        count = 27 if scope else 39
        changes = await take_changes(watch, count)
    assert isinstance(synced, Synced)
    shown = [(change.scope, change.key, change.revision) for change in changes]
    for index, cursor in enumerate([synced.cursor, *(change.cursor for change in changes)]):
        async with state.watch(scope, start=cursor) as watch:
            later = await take_changes(watch, count - index)
            await state.set("{a}/one", "mark", index)
            (marked,) = await take_changes(watch, 1)
        assert sorted((change.scope, change.key, change.revision) for change in later) == sorted(shown[index:])
        assert marked.key == "mark"
        shown.append((marked.scope, "mark", marked.revision))
        count += 1
        check_order([change for change in later if change.scope == "{a}/one"])


async def test_transaction_that_was_seen_in_part_and_is_lost_is_another_history(state: StateManager, raw: redis.Redis) -> None:
    """The positions before it are still there."""
    async with state.watch("{a}/one") as watch:
        await state.set("{a}/one", "before", 1)
        async with state.transaction() as tx:
            for number in range(5):
                tx.set("{a}/one", str(number), number)
        changes = await take_changes(watch, 3)
    keys = await state.connect()
    for change in await collect(state, "{a}/one", changes[0].cursor, 5):
        raw.xdel(keys.state_keys(b"{a}/one", change.key.encode()).events, change.revision)
    await state.set("{a}/one", "after", 1)
    async with state.watch("{a}/one", start=changes[-1].cursor) as watch:
        with pytest.raises(HistoryForked, match="of which this cursor has seen a part"):
            await take(watch, 1)


async def collect(state: StateManager, scope: str, cursor: str, count: int) -> list[Change]:
    async with state.watch(scope, start=cursor) as watch:
        return await take_changes(watch, count)


async def test_cursor_of_a_watch_of_one_key(state: StateManager) -> None:
    async with state.watch("{a}/one", "x") as watch:
        for turn in range(4):
            async with state.transaction() as tx:
                tx.set("{a}/one", "x", turn)
                tx.set("{a}/one", "y", turn)
        changes = await take_changes(watch, 4)
    for index, change in enumerate(changes[:-1]):
        async with state.watch("{a}/one", "x", start=change.cursor) as watch:
            assert [later.value for later in await take_changes(watch, 3 - index)] == list(range(index + 1, 4))


async def test_cursor_of_an_incomplete_snapshot_begins_the_snapshot_again(state: StateManager) -> None:
    await state.set_many("s", {"a": 1, "b": 2})
    async with state.watch("s", start="snapshot") as watch:
        (first,) = await take_changes(watch, 1)
    async with state.watch("s", start=first.cursor) as watch:
        assert {change.key for change in await take_snapshot(watch)} == {"a", "b"}


async def test_bookmark_comes_when_nothing_happens_and_watch_goes_on_after_it(
    state: StateManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watches, "_BOOKMARK", 0.2)
    async with state.watch("s") as watch:
        await state.set("other scope of any partition", "a", 1)
        async with asyncio.timeout(PATIENCE):
            bookmark = await anext(watch)
        assert isinstance(bookmark, Bookmark)
        assert bookmark.timestamp > 0
    await state.set("s", "a", 1)
    async with state.watch("s", start=bookmark.cursor) as watch:
        assert facts((await take_changes(watch, 1))[0]) == ("created", "a", 1)


async def test_watch_goes_on_where_the_live_events_are_while_many_are_written(state: StateManager, second: StateManager) -> None:
    """The way from history to the shared read leaves out nothing, and shows nothing twice."""
    async with state.watch("s") as first:
        await state.set("s", "start", 0)
        (start,) = await take_changes(first, 1)
        writing = asyncio.create_task(write_many(second, 1500))
        for _ in range(5):
            async with state.watch("s", start=start.cursor) as watch:
                changes = await take_changes(watch, 200)
                values = [change.value for change in changes]
                assert values == list(range(values[0], values[0] + 200))
                start = changes[-1]
        await writing


async def write_many(state: StateManager, count: int) -> None:
    for number in range(count):
        await state.set("s", "n", number)


@pytest.mark.parametrize("cursor", ["", "x", "now ", "AAAA", "a" * 5000, "ünï", "QUJD\n"])
async def test_text_that_is_no_cursor_is_rejected(state: StateManager, cursor: str) -> None:
    with pytest.raises(InvalidCursor, match="'now', 'snapshot' or the cursor"):
        state.watch("s", start=cursor)


async def test_changed_cursor_is_rejected(state: StateManager) -> None:
    async with state.watch("s", start="snapshot") as watch:
        cursor = (await take(watch, 1))[0].cursor
    assert cursor.isascii()
    changed = ("B" if cursor[0] == "A" else "A") + cursor[1:]
    for text in (changed, cursor[:-1], cursor + "A", cursor[1:]):
        with pytest.raises(InvalidCursor):
            state.watch("s", start=text)
    with pytest.raises(InvalidCursor, match="not int"):
        state.watch("s", start=7)  # type: ignore[arg-type]


async def test_cursor_has_at_most_4_kib(server: RedisServer, namespace: str) -> None:
    async with StateManager(server.url, namespace=namespace) as state:
        await asyncio.gather(*(state.set(f"scope {number % 100}", str(number), 1) for number in range(3000)))
        async with state.watch(None, start="snapshot") as watch:
            await take_snapshot(watch)
            await state.set("s", "a", 1)
            (change,) = await take_changes(watch, 1)
    assert len(change.cursor) <= 4096


async def test_cursor_of_another_namespace_or_layout_is_an_error_that_says_so(server: RedisServer, namespace: str) -> None:
    async with StateManager(server.url, namespace=namespace) as state, state.watch("s", start="snapshot") as watch:
        cursor = (await take(watch, 1))[0].cursor
    for other, layout, text in ((namespace + "b", None, "namespace"), (namespace + "c", Layout(2, 2), "namespace")):
        async with StateManager(server.url, namespace=other, layout=layout) as state, state.watch("s", start=cursor) as watch:
            with pytest.raises(HistoryGone, match=text):
                await take(watch, 1)
    async with StateManager(server.url, namespace=namespace) as state:
        with pytest.raises(WatchMisused, match="another scope"):
            async with state.watch(None, start=cursor):
                pass


# -- transactions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["{a}/one", None])
async def test_changes_of_a_transaction_come_together(state: StateManager, second: StateManager, scope: str | None) -> None:
    """Other changes of the same keys, and other transactions, are written at the same time."""

    async def transact(name: int) -> None:
        async with second.transaction() as tx:
            for number in range(6):
                tx.set("{a}/one", f"{(name + number) % 9}", [name])
            tx.set("{a}/two", "x", name)

    async with state.watch(scope) as watch:
        writes = [transact(name) for name in range(40)]
        writes += [second.set("{a}/one", str(number % 9), number) for number in range(200)]  # type: ignore[misc]
        await asyncio.gather(*writes)
        changes = await take_changes(watch, 40 * (6 if scope else 7) + 200)
    size = 6 if scope else 7
    runs: list[list[Change]] = []
    for change in changes:
        name = change.transaction and change.transaction.id
        if runs and runs[-1][0].transaction and name == runs[-1][0].transaction.id:
            runs[-1].append(change)
        else:
            runs.append([change])
    parts = [run for run in runs if run[0].transaction]
    assert [len(run) for run in parts] == [size] * 40
    for run in parts:
        indexes = [change.transaction.index for change in run if change.transaction]
        assert indexes == sorted(indexes)
    check_order([change for change in changes if change.scope == "{a}/one"])


# -- gaps -----------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("every_change_looks")
@pytest.mark.parametrize("on_gap", ["error", "resync"])
async def test_trimmed_events_are_an_error_or_a_new_snapshot(server: RedisServer, namespace: str, on_gap: Any) -> None:
    keep_none = Retention(entries=0, seconds=0.0)
    async with StateManager(server.url, namespace=namespace, retention=keep_none, deadline=0) as state:
        async with state.watch("s", start="snapshot") as watch:
            cursor = (await take(watch, 1))[0].cursor
        await state.set("s", "a", 0)  # trims itself
        async with state.watch("s", start=cursor, on_gap=on_gap) as watch:
            if on_gap == "error":
                with pytest.raises(HistoryGone, match=r"watch of scope 's'.* were trimmed: start with 'snapshot'"):
                    await take(watch, 1)
                with pytest.raises(HistoryGone):  # again
                    await anext(watch)
            else:
                assert [facts(change) for change in await take_snapshot(watch)] == [("snapshot", "a", 0)]


async def test_trimming_of_what_was_seen_is_no_false_alarm(state: StateManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a watch that goes on, and for the cursor of a quiet lane whose last entry is gone."""
    monkeypatch.setattr(feeds, "CHECK_INTERVAL", 0.1)
    async with state.watch("s") as live:
        for turn in range(3):
            await state.set("s", "quiet", turn)
            (change,) = await take_changes(live, 1)
            assert change.value == turn
            await remove_all(state, "s", "quiet")
    await state.set("s", "quiet", 3)
    await state.set("s", "quiet", 4)
    async with state.watch("s", start=change.cursor) as watch:
        assert [later.value for later in await take_changes(watch, 2)] == [3, 4]
    await remove_all(state, "s", "quiet")
    async with state.watch("s", start=change.cursor) as watch:
        with pytest.raises(HistoryGone):
            await take(watch, 1)


async def remove_all(state: StateManager, scope: str, key: str) -> None:
    """Trim the stream of a key as lib/retention.lua does, whatever the age of its entries."""
    keys = await state.connect()
    stream = keys.state_keys(scope.encode(), key.encode()).events
    router = await state.open_router()
    try:
        removed = await router.execute(stream, "XTRIM", stream, "MAXLEN", 0)
        await router.execute(stream, "HINCRBY", keys.trimmed(stream), b"removed " + stream, removed)
    finally:
        await router.aclose()


@pytest.mark.parametrize("on_gap", ["error", "resync"])
async def test_lost_data_is_an_error_or_a_new_snapshot_with_deletions(
    state: StateManager, second: StateManager, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch, on_gap: Any
) -> None:
    """FLUSHALL cuts no connection. Only the look at the lanes finds that the server has another history."""
    monkeypatch.setattr(feeds, "CHECK_INTERVAL", 0.2)
    await state.set("s", "lost", 1)
    async with state.watch("s", start="snapshot", on_gap=on_gap) as watch:
        await take_snapshot(watch)
        await state.set("s", "kept", 1)
        await take_changes(watch, 1)
        for name in raw.scan_iter(f"*{state.namespace}*"):
            raw.delete(name)
        await second.set("s", "new", 2)
        if on_gap == "error":
            with pytest.raises(HistoryForked, match="was not trimmed: the server has lost writes"):
                await take(watch, 100)
            return
        found = await take_snapshot(watch)
    shown = [change for change in found if change.type == "state:snapshot"]
    gone = [change for change in found if change.reason == "resync"]
    assert [facts(change) for change in shown] == [("snapshot", "new", 2)] or any(change.key == "new" for change in found)
    assert {change.key for change in gone} == {"lost", "kept"}
    assert {(change.revision, change.value) for change in gone} == {("0-0", None)}


# -- slow readers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"buffer_items": 10}, {"buffer_bytes": 4000}])
async def test_slow_reader_gets_what_waited_and_then_an_error(state: StateManager, options: dict[str, int]) -> None:
    values = [[number, "x" * 400] for number in range(20)]
    async with state.watch("s", **options) as watch:  # type: ignore[arg-type]
        for value in values:
            await state.set("s", str(value[0]), value)
        await until_holds(lambda: watch._failure is not None, "the buffer is full")
        changes = await take_changes(watch, len(watch._items))
        with pytest.raises(WatchOverflow, match=r"over \d+ items or .* start again with the cursor of the last item"):
            await take(watch, 1)
    assert 0 < len(changes) < 20
    async with state.watch("s", start=changes[-1].cursor) as watch:
        changes += await take_changes(watch, 20 - len(changes))
    assert sorted(change.value for change in changes) == values


async def test_slow_reader_can_have_the_last_change_of_each_key(state: StateManager) -> None:
    async with state.watch("s", buffer_items=20, on_overflow="latest") as watch:
        for number in range(200):
            await state.set("s", str(number % 3), number)
        await state.set("s", "end", 0)
        values: dict[str, list[Any]] = {}
        cursors = []
        while "end" not in values:
            (change,) = await take_changes(watch, 1)
            values.setdefault(change.key, []).append(change.value)
            cursors.append(change.cursor)
    assert [values[key][-1] for key in "012"] == [198, 199, 197]
    assert sum(map(len, values.values())) < 150
    for found in values.values():
        assert found == sorted(found)
    async with state.watch("s", start=cursors[-2]) as watch:
        assert (await take_changes(watch, 1))[0].key == "end"


async def test_more_keys_than_the_buffer_holds_are_an_error_also_for_the_latest(state: StateManager) -> None:
    async with state.watch("s", buffer_items=20, on_overflow="latest") as watch:
        for number in range(30):
            await state.set("s", str(number), number)
        with pytest.raises(WatchOverflow):
            await take(watch, 31)


async def test_snapshot_larger_than_the_buffer_waits_for_its_reader(state: StateManager) -> None:
    await asyncio.gather(*(state.set("s", str(number), "x" * 500) for number in range(300)))
    async with state.watch("s", start="snapshot", buffer_items=1000, buffer_bytes=2 * 1024 * 1024) as watch:
        await asyncio.sleep(0.05)
        assert len(await take_snapshot(watch)) == 300


# -- ending ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["now", "snapshot"])
async def test_watch_ends_at_once_from_another_task(state: StateManager, start: str) -> None:
    await state.set("s", "a", 1)
    items: list[Any] = []
    watch = state.watch("s", start=start)
    async with watch:

        async def read() -> None:
            async for item in watch:
                items.append(item)  # noqa: PERF401

        reader = asyncio.create_task(read())
        await until_holds(lambda: start == "now" or len(items) == 2, "the snapshot was read")
        await watch.close()
        await watch.close()
        async with asyncio.timeout(1):
            await reader


async def test_watch_that_is_cancelled_leaves_nothing_behind(state: StateManager, raw: redis.Redis) -> None:
    await state.connect()
    tasks, before = asyncio.all_tasks(), len(raw.client_list())
    for number in range(300):
        await state.set("s", str(number), "x")
    for start in ("now", "snapshot", "snapshot"):

        async def read(start: str = start) -> None:
            async with state.watch("s", start=start, buffer_items=10) as watch:
                async for _ in watch:
                    await asyncio.sleep(3600)

        reader = asyncio.create_task(read())
        await asyncio.sleep(0.05)
        reader.cancel()
        await asyncio.wait([reader])
    await until_holds(
        lambda: asyncio.all_tasks() == tasks and len(raw.client_list()) <= before + 1, "tasks and connections have ended"
    )
    feed = state._sessions.current().feed  # type: ignore[union-attr]
    assert feed is not None
    assert not feed._partitions
    assert not feed._readers


async def test_manager_that_is_closed_ends_its_watches_with_an_error(state: StateManager) -> None:
    async with state.watch("s") as watch:
        reading = asyncio.create_task(anext(watch))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        await state.close()
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(StateUnavailable, match="closed"):
                await reading


async def test_watch_outside_of_its_block_or_used_twice_says_so(state: StateManager) -> None:
    watch = state.watch("s")
    with pytest.raises(WatchMisused, match="inside of 'async with'"):
        await anext(watch)
    async with watch:
        pass
    with pytest.raises(WatchMisused, match="used once"):
        async with watch:
            pass
    assert [item async for item in watch] == []


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (("s", "k", "p"), WatchMisused, "a key or a prefix"),
        ((None, "k"), WatchMisused, "need a scope"),
        ((None, None, "p"), WatchMisused, "need a scope"),
        (("",), InvalidName, "scope must not be empty"),
        ((3,), InvalidName, "scope must be a string"),
        (("s", ""), InvalidName, "key must not be empty"),
        (("@motia/x",), InvalidName, "reserved"),
    ],
)
async def test_names_that_cannot_be_are_rejected(state: StateManager, arguments: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        state.watch(*arguments)


@pytest.mark.parametrize(
    "options", [{"on_gap": "x"}, {"on_overflow": None}, {"buffer_items": 0}, {"buffer_bytes": 1.5}, {"buffer_items": True}]
)
async def test_options_that_cannot_be_are_rejected(state: StateManager, options: dict[str, Any]) -> None:
    with pytest.raises(WatchMisused, match=f"{next(iter(options))} must be"):
        state.watch("s", **options)


# -- cost -----------------------------------------------------------------------------------------------------------------


async def test_two_hundred_watches_cost_redis_what_one_costs(state: StateManager, raw: redis.Redis) -> None:
    def reads() -> int:
        stats: Any = raw.info("commandstats")
        return int(stats["cmdstat_xread"]["calls"])

    async def count_reads(watch: Watch) -> int:
        before = reads()
        for number in range(50):
            await state.set("s", "a", number)
            await take_changes(watch, 1)
        return reads() - before

    async with state.watch("s") as first:
        alone = await count_reads(first)
        connections = len(raw.client_list())
        async with AsyncExitStack() as stack:
            others = [await stack.enter_async_context(state.watch("s", key)) for key in ["a"] * 100 + ["b"] * 99]
            shared = await count_reads(first)
            assert len(raw.client_list()) <= connections + 1
            for other in others[:100]:
                assert len(await take_changes(other, 50)) == 50
    assert shared <= alone + 10
