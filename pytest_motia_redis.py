"""The pytest plugin of motia-redis: fixtures for tests of steps on a real server. See docs/testing.md.

pytest imports this module at every start, so it imports nothing of motia-redis before a fixture is used. The fixtures are plain
functions: tests may be run by pytest-asyncio, anyio or neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from motia_redis import StateManager
    from motia_redis.testing import App, MakeApp


@pytest.fixture(scope="session")
def motia_url() -> Iterator[str]:
    """Give the URL of the Redis that tests use: an embedded server, one for each worker process of pytest-xdist.

    A project that tests on another Redis defines a fixture of this name and scope in its conftest.py.
    """
    from motia_redis import testing  # noqa: PLC0415 - see the module's docstring

    yield testing.server_url()
    testing.stop_server()


@pytest.fixture
def motia_state(motia_url: str) -> Iterator[StateManager]:
    """Give a `StateManager` with a namespace of its own, which is deleted after the test."""
    from motia_redis._testing import apps  # noqa: PLC0415

    with apps.namespace(motia_url) as state:
        yield state


@pytest.fixture
def motia_app(motia_state: StateManager) -> MakeApp:
    """Give a function that makes an application of steps and step files, in the namespace of `motia_state`."""
    from motia_redis._testing import apps  # noqa: PLC0415

    def make_app(*parts: Any, now: datetime | None = None) -> App:
        return apps.new_app(motia_state, parts, now)

    return make_app
