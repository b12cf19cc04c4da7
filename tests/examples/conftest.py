"""What the examples share: where their Redis is, and a check that they leave nothing behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.programs import EXAMPLES, Program
from tests.support.servers import RedisServer
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import redis


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Run a server that keeps its data on disk, so that no process warns."""
    with RedisServer(tmp_path_factory.mktemp("redis"), "--appendonly", "yes") as server:
        yield server


@pytest.fixture
def variables(server: RedisServer, namespace: str) -> dict[str, str]:
    """Return the variables that say where Redis is; the examples need no others."""
    return {"MOTIA_REDIS_URL": server.url, "MOTIA_REDIS_NAMESPACE": namespace}


@pytest.fixture
def start(tmp_path: Path, variables: dict[str, str]) -> Callable[..., Program]:
    """Return what makes a program of an example: its folder, the module and its arguments, and the sign that it is ready."""
    numbers = iter(range(100))

    def program(folder: str, *arguments: str, ready: str, **more: str) -> Program:
        log = tmp_path / f"{arguments[0]}-{next(numbers)}.log"
        return Program(EXAMPLES / folder, log, *arguments, ready=ready, variables=variables | more)

    return program


@pytest.fixture(autouse=True)
def _nothing_is_left(raw: redis.Redis) -> Iterator[None]:
    """Check that a test has left no file among the examples, and no connection to Redis."""
    files, clients = _files(), _clients(raw)
    yield
    assert _files() == files
    wait_until(lambda: _clients(raw) <= clients, "all connections to Redis are closed")


def _files() -> set[Path]:
    return {path for path in EXAMPLES.rglob("*") if "__pycache__" not in path.parts}


def _clients(raw: redis.Redis) -> set[Any]:
    return {client["id"] for client in raw.client_list()}
