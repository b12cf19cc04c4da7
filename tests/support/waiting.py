"""Wait for conditions with a deadline, never for a fixed time."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

DEADLINE = 20.0  # seconds; far more than any test needs on a loaded machine


def wait_until(condition: Callable[[], bool], what: str, *, deadline: float = DEADLINE) -> None:
    """Wait until `condition()` holds; fail the test, naming `what`, when it does not in time."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"waited {deadline} s in vain: {what}"
        time.sleep(0.01)


async def until(condition: Callable[[], Awaitable[bool]], what: str, *, deadline: float = DEADLINE) -> None:
    """Wait until `await condition()` holds; fail the test, naming `what`, when it does not in time."""
    end = time.monotonic() + deadline
    while not await condition():
        assert time.monotonic() < end, f"waited {deadline} s in vain: {what}"
        await asyncio.sleep(0.01)


async def until_holds(condition: Callable[[], bool], what: str, *, deadline: float = DEADLINE) -> None:
    async def holds() -> bool:
        return condition()

    await until(holds, what, deadline=deadline)


async def within_deadline(call: Awaitable[Any]) -> Any:
    """Wait for a result; fail the test when none comes in time."""
    return await asyncio.wait_for(call, DEADLINE)
