"""Fixtures: a sync manager in a namespace of its own, and no loop thread left behind."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from motia_redis._sync import loop_thread
from motia_redis.sync import StateManager

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import RedisServer


@pytest.fixture(autouse=True, scope="module")
def loop_of_the_module() -> Iterator[None]:
    yield
    loop_thread.end()
    assert [thread.name for thread in threading.enumerate() if thread.name == "motia_redis.sync"] == []


@pytest.fixture
def state(server: RedisServer, namespace: str) -> Iterator[StateManager]:  # type: ignore[override]
    with StateManager(server.url, namespace=namespace) as manager:
        yield manager
