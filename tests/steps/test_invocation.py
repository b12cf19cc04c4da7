"""Calling a user's function: what it gets, where it runs, and what its errors become."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import gc
import sys
import threading
import types
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from motia_redis._steps.invocation import Apart, call, call_here, call_in_task
from tests.support.waiting import until_holds, within_deadline


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


def hand_back(fn: Any, input: Any) -> Any:
    return fn(input)


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


class Panic(BaseException):
    """Stands for the exception of a panic in Rust code, which is no Exception."""


class Textless(BaseException):
    """An exception whose text cannot be made."""

    def __str__(self) -> str:
        raise Panic("asked for the text")


async def raised_by(fn: Any, executor: ThreadPoolExecutor | None = None) -> BaseException:
    """Return what a call raises. A plain `try`, because the exception must come out of the `await`."""
    try:
        await within_deadline(call(fn, "i", None, executor))
    except BaseException as error:  # noqa: BLE001
        return error
    raise AssertionError("nothing was raised")


HARMLESS = [
    Panic("panic"),
    Textless(),
    GeneratorExit(),
    BaseExceptionGroup("group", [Panic(), KeyboardInterrupt()]),
    ExceptionGroup("group", [ValueError()]),
    concurrent.futures.CancelledError("of another future"),
    concurrent.futures.InvalidStateError(),
    StopAsyncIteration(),
    RecursionError(),
    TimeoutError(),
]
RESERVED = [SystemExit(3), KeyboardInterrupt("by hand"), StopIteration(4), asyncio.CancelledError("by hand")]


@pytest.mark.parametrize("error", HARMLESS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("is_async", [True, False])
async def test_anything_that_a_function_raises_comes_out_of_the_call(error: BaseException, is_async: bool) -> None:
    async def fails(input: Any) -> None:
        raise error

    def fails_in_thread(input: Any) -> None:
        raise error

    with ThreadPoolExecutor(1) as executor:
        assert await raised_by(fails if is_async else fails_in_thread, executor) is error
        assert await call(lambda given: given, "still works", None, executor) == "still works"
    task: Any = asyncio.current_task()
    assert not task.cancelling()


@pytest.mark.parametrize("error", RESERVED, ids=lambda error: type(error).__name__)
async def test_what_asyncio_takes_for_its_own_becomes_a_runtime_error_in_a_thread(error: BaseException) -> None:
    def fails(input: Any) -> None:
        raise error

    with ThreadPoolExecutor(1) as executor:
        raised = await raised_by(fails, executor)
        assert await call(lambda given: given, "still works", None, executor) == "still works"
    assert type(raised) is RuntimeError
    assert raised.__cause__ is error
    assert ("sys.exit(3)" if isinstance(error, SystemExit) else type(error).__name__) in str(raised)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("kind", ["async", "thread returns awaitable", "here", "condition"])
async def test_what_ends_the_loop_becomes_a_runtime_error(error: BaseException, kind: str) -> None:
    async def fails(input: Any) -> None:
        await asyncio.sleep(0)
        raise error

    def fails_here(input: Any) -> None:
        raise error

    async def run() -> None:
        if kind == "here":
            call_here(fails_here, 1, None)
        elif kind == "condition":
            await Apart(call_here(fails, 1, None))
        else:
            await call(fails if kind == "async" else functools.partial(hand_back, fails), 1, None)

    # In a task of its own: a SystemExit that leaves a task ends the loop, whoever awaits the task.
    with pytest.raises(RuntimeError) as raised:
        await asyncio.create_task(run())
    assert raised.value.__cause__ is error


async def test_exit_code_without_a_usable_repr_becomes_a_runtime_error() -> None:
    class Code:
        def __repr__(self) -> str:
            raise Panic

    def leave(input: Any) -> None:
        sys.exit(Code())  # type: ignore[arg-type]

    assert "whose repr raised Panic" in str(await raised_by(leave))


@pytest.mark.parametrize("call", [call, call_in_task])
async def test_cancellation_of_the_caller_reaches_an_async_function(call: Any) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def waits(input: Any) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.ensure_future(call(waits, 1, None))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
    assert task.cancelled()


@pytest.mark.parametrize("error", [*HARMLESS, asyncio.CancelledError()], ids=lambda error: type(error).__name__)
async def test_anything_that_a_function_raises_comes_out_of_a_task_of_its_own(error: BaseException) -> None:
    async def fails(input: Any) -> None:
        raise error

    raised: BaseException | None = None
    try:
        await call_in_task(fails, 1, None)
    except BaseException as caught:  # noqa: BLE001
        raised = caught
    assert raised is error
    await asyncio.sleep(0)  # the caller goes on


async def test_function_that_cancels_its_task_does_not_cancel_the_caller() -> None:
    async def cancels(input: Any) -> None:
        task: Any = asyncio.current_task()
        task.cancel()
        await asyncio.sleep(0)

    with pytest.raises(asyncio.CancelledError):
        await call_in_task(cancels, 1, None)
    caller: Any = asyncio.current_task()
    assert not caller.cancelling()
    await asyncio.sleep(0)


async def test_raised_exception_is_freed_without_the_garbage_collector() -> None:
    class Marked(Exception):
        pass

    gone: list[weakref.ref[Marked]] = []

    def fails(input: Any) -> None:
        error = Marked()
        gone.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(Marked):
            await call(fails, 1, None)
        # The thread lets go of what it returned a moment after that.
        await until_holds(lambda: gone[0]() is None, "the exception is freed")
    finally:
        gc.enable()


async def test_sync_function_may_return_any_awaitable() -> None:
    @types.coroutine
    def old_style(input: Any) -> Any:
        yield from asyncio.sleep(0).__await__()
        return input

    assert await call(functools.partial(hand_back, old_style), "i", None) == "i"


async def test_sync_function_that_raises_stop_iteration_does_not_hang_its_caller() -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await within_deadline(call(advance, iter(()), None))


@pytest.mark.parametrize("is_async", [True, False])
async def test_system_exit_of_a_function_becomes_a_runtime_error(is_async: bool) -> None:
    async def leave(input: Any) -> None:
        raise SystemExit(3)

    def leave_sync(input: Any) -> None:
        raise SystemExit(3)

    with pytest.raises(RuntimeError, match=r"sys.exit\(3\)"):
        await call(leave if is_async else leave_sync, 1, None)
