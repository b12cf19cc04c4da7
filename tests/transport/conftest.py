"""Fixtures: servers on a TCP port, and directories for embedded servers."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from motia_redis._transport.embedded import EmbeddedServer
from tests.support.clusters import free_port
from tests.support.embedded import eventually, processes_of
from tests.support.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., tuple[RedisServer, int]]]:
    """Return a function that starts a server for this test, on a socket and on a TCP port, and returns server and port."""
    started = []

    def start(*options: str) -> tuple[RedisServer, int]:
        port = free_port()
        directory = tmp_path / f"server{len(started)}"
        directory.mkdir()
        server = RedisServer(directory, "--port", str(port), "--bind", "127.0.0.1", *options)
        server.__enter__()
        started.append(server)
        return server, port

    yield start
    for server in started:
        server.__exit__()


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Return a directory. Fail the test if it leaves processes or a socket there."""
    path = tmp_path / "data"
    yield path
    assert eventually(lambda: not processes_of(path), within=8.0), f"left behind: {processes_of(path)}"
    assert not (path / "redis.sock").exists()


@pytest.fixture
def join(directory: Path) -> Iterator[Callable[..., EmbeddedServer]]:
    with ExitStack() as stack:

        def join(path: Path = directory, **options: float) -> EmbeddedServer:
            server = EmbeddedServer.join(path, **options)
            stack.callback(server.leave)
            return server

        yield join
