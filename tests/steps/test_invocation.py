"""Calling a user's function: what it gets, where it runs, and what its errors become."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from motia_redis._steps.invocation import call


class Callable2:
    async def __call__(self, input: Any, ctx: Any) -> Any:
        return input, ctx


class Unhashable:
    __hash__ = None  # type: ignore[assignment]

    def __call__(self, input: Any) -> Any:
        return input


async def async_two(input: Any, ctx: Any) -> Any:
    return input, ctx


async def async_one(input: Any) -> Any:
    return input


def sync_around_async(input: Any) -> Any:
    return async_one(input)


def advance(input: Any) -> Any:
    return next(input)


@pytest.mark.parametrize(
    ("fn", "result"),
    [
        (async_two, ("i", "c")),
        (async_one, "i"),
        (lambda given, ctx: (given, ctx), ("i", "c")),
        (lambda given: given, "i"),
        (lambda *args: args, ("i", "c")),
        (lambda given, ctx=None: (given, ctx), ("i", "c")),
        (lambda given, n=7: (given, n), ("i", 7)),
        (sync_around_async, "i"),
        (functools.partial(lambda extra, given: (extra, given), "e"), ("e", "i")),
        (Callable2(), ("i", "c")),
        (Unhashable(), "i"),
    ],
)
async def test_function_gets_the_context_exactly_when_it_takes_one(fn: Any, result: Any) -> None:
    assert await call(fn, "i", "c") == result


async def test_sync_function_runs_in_a_thread_while_the_loop_goes_on() -> None:
    loop = asyncio.get_running_loop()
    released = threading.Event()

    def blocks(input: Any) -> bool:
        loop.call_soon_threadsafe(released.set)  # runs while this waits only if the loop goes on
        return released.wait(5)

    assert await call(blocks, 1, None)


async def test_sync_function_runs_in_the_given_executor() -> None:
    with ThreadPoolExecutor(thread_name_prefix="mine") as executor:
        name = await call(lambda given: threading.current_thread().name, 1, None, executor)
    assert name.startswith("mine")


async def test_sync_function_sees_the_context_variables_of_its_caller() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    variable.set("set")
    assert await call(lambda given: variable.get(), 1, None) == "set"


async def test_exception_of_a_function_reaches_the_caller() -> None:
    async def fails(input: Any) -> None:
        raise KeyError(input)

    with pytest.raises(KeyError, match="i"):
        await call(fails, "i", None)
    with pytest.raises(ZeroDivisionError):
        await call(lambda given: 1 / given, 0, None)


async def test_sync_function_that_raises_stop_iteration_does_not_hang_its_caller() -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await asyncio.wait_for(call(advance, iter(()), None), 5)


@pytest.mark.parametrize("is_async", [True, False])
async def test_system_exit_of_a_function_becomes_a_runtime_error(is_async: bool) -> None:
    async def leave(input: Any) -> None:
        raise SystemExit(3)

    def leave_sync(input: Any) -> None:
        raise SystemExit(3)

    with pytest.raises(RuntimeError, match=r"sys.exit\(3\)"):
        await call(leave if is_async else leave_sync, 1, None)
