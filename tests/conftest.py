"""Fixtures: a real redis-server for the whole run, and a namespace of its own for every test."""

from __future__ import annotations

import itertools
import signal
from typing import TYPE_CHECKING

import pytest
import redis

from motia_redis import StateManager
from motia_redis._scripts import functions
from motia_redis._store.mutations import Mutations
from tests.support.servers import RedisServer, has_functions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator

_numbers = itertools.count()


def pytest_configure() -> None:
    """Let programs that tests start get SIGINT: a shell starts what runs in its background with SIGINT ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Replace what UTF-8 cannot encode in captured text: pytest-xdist cannot send such a report to its main process."""
    report = yield
    report.sections = [(title, text.encode(errors="replace").decode()) for title, text in report.sections]
    return report


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def namespace() -> str:
    return f"test{next(_numbers)}"


@pytest.fixture(params=["functions", "scripts"] if has_functions() else ["scripts"])
def each_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test once by functions and once by scripts, where the server has functions."""
    if request.param == "scripts":
        monkeypatch.setenv(functions.VARIABLE, "never")


@pytest.fixture
async def state(server: RedisServer, namespace: str) -> AsyncIterator[StateManager]:
    async with StateManager(server.url, namespace=namespace) as manager:
        yield manager


@pytest.fixture
async def second(server: RedisServer, namespace: str) -> AsyncIterator[StateManager]:
    """Provide a second manager, which is another process for Redis."""
    async with StateManager(server.url, namespace=namespace) as manager:
        yield manager


@pytest.fixture
def every_change_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every change look for what can be trimmed, not one in 64 by chance."""
    monkeypatch.setattr(Mutations, "_trims_now", lambda _: True)


@pytest.fixture
def raw(server: RedisServer) -> Iterator[redis.Redis]:
    """A plain client: what another program sees and writes."""
    with redis.Redis.from_url(server.url) as client:
        yield client
