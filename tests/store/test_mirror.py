"""A mirror is a mapping that follows a scope, and says how old it is."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import StateManager
from motia_redis._store import feed as feeds
from motia_redis.errors import InvalidName, MirrorTooLarge, Stale, StateError, StateUnavailable, WatchMisused
from tests.support.clusters import Process, free_port
from tests.support.waiting import until_holds

if TYPE_CHECKING:
    from pathlib import Path

    from motia_redis.types import Change


async def revision_of(state: StateManager, scope: str, key: str) -> str:
    entry = await state.entry(scope, key)
    assert entry is not None
    return entry.revision


async def test_mirror_is_a_mapping_of_the_scope_that_follows(state: StateManager, second: StateManager) -> None:
    await state.set_many("flags", {"beta": True, "limits": {"n": [1]}, "text": "x"})
    async with state.mirror("flags") as flags:
        assert dict(flags) == {"beta": True, "limits": {"n": [1]}, "text": "x"} == await state.items("flags")
        assert (len(flags), "beta" in flags, "other" in flags, flags.get("other", 7)) == (3, True, False, 7)
        with pytest.raises(KeyError, match="other"):
            _ = flags["other"]
        await second.set("flags", "new", None)
        await second.delete("flags", "text")
        await second.set("elsewhere", "new", 1)
        await flags.reached(await revision_of(second, "flags", "new"))
        assert dict(flags) == {"beta": True, "limits": {"n": [1]}, "new": None}
        assert flags.age < 5
        assert flags.cursor


async def test_mirror_of_a_prefix(state: StateManager) -> None:
    await state.set_many("flags", {"a.x": 1, "b.x": 2})
    async with state.mirror("flags", "a.") as flags:
        await state.set("flags", "a.y", 3)
        await state.set("flags", "b.y", 4)
        await flags.reached(await revision_of(state, "flags", "b.y"))
        assert dict(flags) == {"a.x": 1, "a.y": 3}


async def test_value_that_a_caller_changes_stays_as_it_was(state: StateManager) -> None:
    await state.set("s", "a", {"list": [1]})
    async with state.mirror("s") as mirror:
        mirror["a"]["list"].append(2)
        assert mirror["a"] == {"list": [1]}
        with pytest.raises(TypeError):
            mirror["a"] = 1  # type: ignore[index]


async def test_process_reads_its_own_writes(state: StateManager, second: StateManager) -> None:
    async with state.mirror("s") as mirror:
        for number in range(100):
            await second.set("s", str(number % 9), number)
            await mirror.reached(await revision_of(second, "s", str(number % 9)))
            assert mirror[str(number % 9)] == number
        with pytest.raises(StateError, match="revision must be a revision"):
            await mirror.reached("soon")


async def test_expired_value_is_hidden_before_its_deletion_comes(state: StateManager) -> None:
    await state.set("s", "a", 1, ttl=0.15)
    await state.set("s", "b", 2)
    async with state.mirror("s") as mirror:
        assert (dict(mirror), len(mirror)) == ({"a": 1, "b": 2}, 2)
        await asyncio.sleep(0.2)
        assert (dict(mirror), len(mirror), "a" in mirror, mirror.get("a")) == ({"b": 2}, 1, False, None)
        with pytest.raises(KeyError):
            _ = mirror["a"]
        await state.set("s", "a", 3)
        await mirror.reached(await revision_of(state, "s", "a"))
        assert dict(mirror) == {"a": 3, "b": 2}


async def test_callback_gets_each_change_after_it_is_there(state: StateManager, caplog: pytest.LogCaptureFixture) -> None:
    async with state.mirror("s") as mirror:
        seen: list[Any] = []

        def note(change: Change) -> None:
            seen.append((change.key, change.value, mirror.get(change.key)))

        def fail(_: Change) -> None:
            raise ValueError("of the callback")

        end = mirror.on_change(note)
        mirror.on_change(fail)
        with caplog.at_level(logging.ERROR, "motia_redis.state"):
            await state.set("s", "a", 1)
            await state.delete("s", "a")
            await until_holds(lambda: len(seen) == 2, "both changes have come")
        end()
        end()
        await state.set("s", "a", 2)
        await mirror.reached(await revision_of(state, "s", "a"))
    assert seen == [("a", 1, 1), ("a", None, None)]
    assert "of the callback" in caplog.text


async def test_mirror_has_at_most_its_bytes(state: StateManager) -> None:
    await state.set("s", "a", "x" * 600)
    with pytest.raises(MirrorTooLarge, match="max_bytes=500"):
        async with state.mirror("s", max_bytes=500):
            pass
    async with state.mirror("s", max_bytes=1000) as mirror:
        for _ in range(5):  # what is replaced does not count
            await state.set("s", "a", "y" * 600)
        await mirror.reached(await revision_of(state, "s", "a"))
        await state.set("s", "b", "x" * 600)
        await until_holds(lambda: mirror._failure is not None, "the mirror has ended")
        for read in (lambda: mirror["a"], lambda: "a" in mirror, lambda: list(mirror)):
            with pytest.raises(MirrorTooLarge):
                read()


async def test_mirror_goes_on_with_what_it_has_while_redis_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "CHECK_INTERVAL", 0.5)
    server = Process(tmp_path / "redis", free_port(), "--save", "", "--appendonly", "yes")
    try:
        server.start()
        async with StateManager(f"redis://127.0.0.1:{server.port}", deadline=0.5) as state:
            await state.set("s", "a", 1)
            async with state.mirror("s", max_age=2.0) as mirror, state.mirror("s") as patient:
                server.kill()
                assert mirror["a"] == 1
                await until_holds(lambda: mirror.age > 2, "the mirror is old")
                with pytest.raises(Stale, match=r"max_age=2: Redis is away"):
                    _ = mirror["a"]
                with pytest.raises(StateUnavailable):
                    await mirror.read("a")
                assert (patient["a"], await patient.read("a")) == (1, 1)
                await asyncio.to_thread(server.start)
                await until_holds(lambda: mirror.age < 2, "the mirror is current again")
                assert mirror["a"] == 1
                await state.set("s", "a", 2)
                await mirror.reached(await revision_of(state, "s", "a"))
                assert (mirror["a"], await mirror.read("a")) == (2, 2)
    finally:
        server.end()


async def test_mirror_after_lost_data_has_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "CHECK_INTERVAL", 0.5)
    server = Process(tmp_path / "redis", free_port(), "--save", "")
    try:
        server.start()
        async with StateManager(f"redis://127.0.0.1:{server.port}") as state:
            await state.set_many("s", {"a": 1, "b": 2})
            async with state.mirror("s") as mirror:
                server.kill()
                await asyncio.to_thread(server.start)
                await state.set("s", "b", 3)
                await until_holds(lambda: dict(mirror) == {"b": 3}, "the mirror has what is there now")
    finally:
        server.end()


async def test_mirror_is_used_inside_of_its_block(state: StateManager) -> None:
    mirror = state.mirror("s")
    with pytest.raises(WatchMisused, match="inside of 'async with'"):
        _ = "a" in mirror
    async with mirror:
        assert dict(mirror) == {}
    with pytest.raises(WatchMisused):
        len(mirror)


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        ((None,), {}, InvalidName),
        (("",), {}, InvalidName),
        (("s",), {"max_age": -1}, StateError),
        (("s",), {"max_bytes": 0}, WatchMisused),
    ],
)
async def test_arguments_that_cannot_be_are_rejected(state: StateManager, arguments: Any, options: Any, error: Any) -> None:
    with pytest.raises(error):
        state.mirror(*arguments, **options)
