"""Settings that must be the same in all processes are stored beside the layout, with the format version."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import Retention, StateManager
from motia_redis._store import keyspace
from motia_redis._store.settings import RETENTION_FIELDS, GivenSettings, Settings
from motia_redis.admin import change_settings
from motia_redis.errors import LayoutMismatch, SettingsMismatch, StateError
from tests.cli.test_main import command, error_line

if TYPE_CHECKING:
    import redis

    from tests.support.servers import RedisServer

OTHER = Retention(entries=7, seconds=1.5)


async def test_first_process_stores_its_settings_and_others_use_them(
    server: RedisServer, namespace: str, raw: redis.Redis
) -> None:
    async with StateManager(server.url, namespace=namespace, retention=OTHER, deadline=3) as first:
        await first.set("users", "ann", 1)
        for number in range(3):
            await first.set("users", "ann", number)
    async with StateManager(server.url, namespace=namespace) as second:
        assert await second.settings() == Settings(OTHER, 3)
        assert (await second.settings()).trimming.startswith(b"7:1000000:13000"), "the deadline and 10 s"
    stored: Any = raw.hgetall(f"{namespace}:layout")
    assert (stored[b"version"], stored[b"retention.entries"], stored[b"deadline"]) == (b"6", b"7", b"3")


async def test_default_settings_are_stored_when_nobody_gives_any(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    assert await state.settings() == Settings(Retention(), 10.0)
    stored: Any = raw.hgetall(f"{namespace}:layout")
    assert {f"retention.{name}".encode() for name in RETENTION_FIELDS} < set(stored)


async def test_different_settings_are_rejected_with_both_values_and_the_remedy(
    state: StateManager, server: RedisServer, namespace: str
) -> None:
    await state.connect()
    with pytest.raises(SettingsMismatch) as caught:
        await StateManager(server.url, namespace=namespace, retention=OTHER, deadline=20).connect()
    assert str(caught.value) == (
        f"namespace {namespace!r}: Retention.entries is 7 here and 100 in the namespace; "
        "Retention.seconds is 1.5 here and 0 in the namespace; deadline is 20 here and 10 in the namespace: "
        "leave the argument out, or change the namespace with "
        "`motia-redis settings --retention-entries 7 --retention-seconds 1.5 --deadline 20`"
    )
    with pytest.raises(SettingsMismatch, match="settings --retention-most-entries 2000000`"):
        await StateManager(server.url, namespace=namespace, retention=Retention(most_entries=2_000_000)).connect()
    async with StateManager(server.url, namespace=namespace, retention=Retention(), deadline=0.5) as shorter:
        assert (await shorter.settings()).deadline == 10.0, "events are kept for the longest deadline"


async def test_remedy_of_the_error_works(state: StateManager, server: RedisServer, namespace: str) -> None:
    await state.connect()
    given = GivenSettings(OTHER, 20)
    text = given.mismatch(await state.settings()) or ""
    arguments = text.partition("`motia-redis ")[2].rstrip("`").split()
    done = command(*arguments, "--redis", server.url, "--namespace", namespace, "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert (shown["retention-entries"], shown["retention-seconds"], shown["deadline"]) == (7, 1.5, 20.0)
    async with StateManager(server.url, namespace=namespace, retention=OTHER, deadline=20) as other:
        assert await other.settings() == Settings(OTHER, 20)
    await state.check_layout()
    assert await state.settings() == Settings(OTHER, 20), "a running process takes them over"


async def test_running_process_with_other_settings_takes_over_changed_ones_and_says_so(
    server: RedisServer, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with StateManager(server.url, namespace=namespace, retention=OTHER) as state:
        await state.connect()
        async with StateManager(server.url, namespace=namespace) as operator:
            assert await change_settings(operator, entries=8) == Settings(Retention(8, 1.5))
        await state.check_layout()
        assert (await state.settings()).retention.entries == 8
    assert "this process uses the stored settings: Retention.entries is 7 here and 8 in the namespace" in caplog.text


async def test_settings_are_restored_with_the_layout(server: RedisServer, namespace: str, raw: redis.Redis) -> None:
    async with StateManager(server.url, namespace=namespace, retention=OTHER) as state:
        await state.connect()
        raw.delete(f"{namespace}:layout")
        await state.set("users", "ann", 1)
    async with StateManager(server.url, namespace=namespace) as other:
        assert (await other.settings()).retention == OTHER


@pytest.mark.parametrize(
    ("version", "text"),
    [(keyspace.FORMAT_VERSION + 1, "newer motia-redis.*upgrade"), (2, "older motia-redis.*another namespace")],
)
async def test_other_format_version_is_refused_with_what_to_do(
    state: StateManager, server: RedisServer, namespace: str, raw: redis.Redis, version: int, text: str
) -> None:
    await state.connect()
    raw.hset(f"{namespace}:layout", "version", version)
    with pytest.raises(LayoutMismatch, match=f"format version {version}, which an {text}".replace("an newer", "a newer")):
        await StateManager(server.url, namespace=namespace).connect()
    with pytest.raises(LayoutMismatch, match=f"format version {version}"):
        await change_settings(state, entries=8)
    assert raw.hget(f"{namespace}:layout", "retention.entries") == b"100"


async def test_missing_field_has_its_default_and_an_unknown_one_is_ignored(
    server: RedisServer, namespace: str, raw: redis.Redis
) -> None:
    fields: dict[str, Any] = {"version": keyspace.FORMAT_VERSION, "partitions": 4, "lanes": 2, "deadline": "5", "new": "x"}
    raw.hset(f"{namespace}:layout", mapping=fields)
    async with StateManager(server.url, namespace=namespace) as state:
        assert await state.settings() == Settings(Retention(), 5.0)


async def test_feature_that_this_version_does_not_know_is_refused_by_name(
    server: RedisServer, namespace: str, raw: redis.Redis
) -> None:
    fields: dict[str, Any] = {"version": keyspace.FORMAT_VERSION, "partitions": 4, "lanes": 2, "feature.expiry": "1"}
    raw.hset(f"{namespace}:layout", mapping=fields)
    with pytest.raises(LayoutMismatch, match=r"uses feature\.expiry, which this motia-redis does not know: upgrade"):
        await StateManager(server.url, namespace=namespace).connect()


@pytest.mark.parametrize("field", ["retention.entries", "deadline"])
async def test_stored_setting_that_is_not_valid_is_named(
    server: RedisServer, namespace: str, raw: redis.Redis, field: str
) -> None:
    fields: dict[str, Any] = {"version": keyspace.FORMAT_VERSION, "partitions": 4, "lanes": 2, field: "x1"}
    raw.hset(f"{namespace}:layout", mapping=fields)
    with pytest.raises(LayoutMismatch, match=r"stored settings are not valid.*x1"):
        await StateManager(server.url, namespace=namespace).connect()


async def test_changes_that_are_not_valid_are_rejected(state: StateManager, server: RedisServer, namespace: str) -> None:
    with pytest.raises(StateError, match="no such setting: colour; there are deadline and entries"):
        await change_settings(state, colour=1)
    with pytest.raises(StateError, match="retention entries must be"):
        await change_settings(state, entries=-1)
    options = ("--redis", server.url, "--namespace", namespace)
    assert "deadline must be a number of seconds" in error_line("settings", "--deadline", "-1", *options)
    assert "there is no namespace" in error_line("settings", "--redis", server.url, "--namespace", "nothing")


def test_command_has_an_option_for_each_setting() -> None:
    text = command("settings", "--help").stdout
    assert {f"--retention-{name.replace('_', '-')}" for name in RETENTION_FIELDS} == {
        word for word in text.split() if word.startswith("--retention-")
    }


async def test_command_shows_the_settings(state: StateManager, server: RedisServer, namespace: str) -> None:
    await state.connect()
    done = command("settings", "--redis", server.url, "--namespace", namespace)
    place, _, *rows = done.stdout.splitlines()
    assert place == f"namespace {namespace!r} of {server.url}"
    lines = dict(row.split() for row in rows)
    assert (lines["deadline"], lines["retention-most-entries"]) == ("10", "1000000")
    assert lines["retention-dead-letter-seconds"] == "2592000"
    assert len(lines) == 2 + len(RETENTION_FIELDS)
