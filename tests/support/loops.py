"""Run tests over the event loops of asyncio and uvloop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.waiting import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

both_loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


def run_in_loop(loop: str, main: Coroutine[Any, Any, None]) -> None:
    """Run a test in an event loop of `asyncio` or `uvloop`. Skip it if uvloop is not installed."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if loop == "uvloop":
        try:
            import uvloop
        except ImportError:
            main.close()
            pytest.skip("uvloop is not installed")
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.wait_for(main, 2 * DEADLINE))
