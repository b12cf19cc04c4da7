"""Watches as plain iterators, and mirrors that any thread reads."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis.errors import MirrorTooLarge, WatchMisused, WatchOverflow
from motia_redis.types import Change, Synced
from tests.support.waiting import DEADLINE, wait_until

if TYPE_CHECKING:
    from motia_redis.sync import StateManager, Watch


def values(watch: Watch, count: int) -> list[Any]:
    return [item.value for item in itertools.islice((item for item in watch if isinstance(item, Change)), count)]


def test_watch_yields_changes_in_order(state: StateManager) -> None:
    with state.watch("carts") as watch:
        for number in range(1000):
            state.set("carts", "ann", number)
        assert values(watch, 1000) == list(range(1000))
        assert watch.age is not None


def test_watch_starts_with_a_snapshot_and_goes_on_from_a_cursor(state: StateManager) -> None:
    state.set("carts", "ann", 1)
    with state.watch("carts", start="snapshot") as watch:
        first, second = next(watch), next(watch)
        assert isinstance(first, Change)
        assert isinstance(second, Synced)
    state.set("carts", "ann", 2)
    with state.watch("carts", start=second.cursor) as watch:
        assert values(watch, 1) == [2]


def test_close_ends_the_watch_in_the_thread_that_waits(state: StateManager) -> None:
    items: list[object] = []
    with state.watch("carts") as watch:
        reader = threading.Thread(target=lambda: items.extend(watch))
        reader.start()
        state.set("carts", "ann", 1)
        wait_until(lambda: len(items) == 1, "the reader has the change")
        watch.close()
        reader.join(DEADLINE)
        assert not reader.is_alive()
        assert list(watch) == []


def test_watch_is_used_once_and_in_its_block(state: StateManager) -> None:
    watch = state.watch("carts")
    with pytest.raises(WatchMisused, match="inside of 'with'"):
        next(watch)
    with watch:
        pass
    with pytest.raises(WatchMisused, match="used once"), watch:
        pass
    watch.close()
    with pytest.raises(WatchMisused):
        state.watch("carts", "ann", "prefix")


def test_watch_that_is_read_too_slowly_says_so(state: StateManager) -> None:
    with state.watch("carts", buffer_items=2) as watch:
        state.set_many("carts", {f"key{number}": number for number in range(10)})
        with pytest.raises(WatchOverflow):
            list(watch)


def test_reached_waits_until_the_reader_has_the_change(state: StateManager) -> None:
    read: list[object] = []
    may_read = threading.Event()

    def follow() -> None:
        for item in watch:
            may_read.wait(DEADLINE)
            read.append(item)

    with state.watch("carts") as watch:
        reader = threading.Thread(target=follow)
        reader.start()
        for number in range(20):
            state.set("carts", "ann", number)
        entry = state.entry("carts", "ann")
        assert entry is not None
        threading.Timer(0.05, may_read.set).start()
        watch.reached(entry.revision)
        assert len(read) >= 19  # the last one is what the reader has just got
        wait_until(lambda: len(read) == 20, "the reader has read on")
        watch.reached(entry.revision)
        watch.close()
        reader.join(DEADLINE)


def test_mirror_is_a_mapping_that_follows_the_scope(state: StateManager) -> None:
    state.set_many("flags", {"beta": True, "limit": {"n": 1}})
    seen: list[str] = []
    with state.mirror("flags") as flags:
        assert dict(flags) == {"beta": True, "limit": {"n": 1}}
        assert (len(flags), "beta" in flags, "none" in flags, flags.get("none")) == (2, True, False, None)
        assert sorted(map(str, flags.values())) == ["True", "{'n': 1}"]
        assert dict(flags.items()) == dict(flags)
        end = flags.on_change(lambda change: seen.append(change.key))
        state.set("flags", "beta", False)
        entry = state.entry("flags", "beta")
        assert entry is not None
        flags.reached(entry.revision)
        assert flags["beta"] is False
        assert flags.read("beta") is False
        assert flags.cursor
        assert flags.age < 5
        end()
        assert seen == ["beta"]
        with pytest.raises(KeyError):
            flags["none"]
    with pytest.raises(WatchMisused):
        flags["beta"]


def test_mirror_can_be_iterated_over_while_it_changes(state: StateManager) -> None:
    state.set_many("flags", {f"key{number}": number for number in range(50)})
    is_over = threading.Event()

    def change() -> None:
        for number in itertools.count():
            if is_over.is_set():
                return
            state.set("flags", f"other{number % 50}", number)
            state.delete("flags", f"other{number % 50}")

    writer = threading.Thread(target=change)
    writer.start()
    with state.mirror("flags") as flags:
        for _ in range(200):
            assert len(flags) >= 50
            assert len(list(flags)) >= 50
            assert len(flags.items()) >= 50
    is_over.set()
    writer.join(DEADLINE)


def test_mirror_of_too_many_bytes_ends(state: StateManager) -> None:
    state.set("flags", "beta", "x" * 100)
    with pytest.raises(MirrorTooLarge), state.mirror("flags", max_bytes=50):
        pass
