"""Calling a user's function: `(input, ctx)` or `(input)`, async on the event loop or sync in a thread."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from motia_redis._steps import faults
from motia_redis._steps.ambient import plain_condition
from motia_redis._steps.context import FlowContext

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator
    from concurrent.futures import Executor

Function = Callable[..., Any]

BLOCKED = 1.0  # seconds: a handler that lets nothing else run for so long is reported


def check_function(fn: object) -> str | None:
    """Return why `fn` can be no handler or condition, worded to follow its name, or None if it can."""
    if not callable(fn):
        return f"must be a function, not {fn!r}"
    try:
        _kind(fn)
    except TypeError as exc:
        return str(exc)
    return None


def call(
    fn: Function, input: Any, ctx: Any, executor: Executor | None = None, on_block: Callable[[float], None] | None = None
) -> Awaitable[Any]:
    """Call `fn` with `input`, and `ctx` if it takes one; what is returned must be awaited at once, and gives the result.

    An async function runs on the event loop; a sync one in a thread of `executor` (None: the loop's own), with the caller's
    context variables and a `SyncFlowContext`, so that it cannot stop the loop. Whatever the function raises is raised, a
    BaseException too; only what asyncio would take for its own becomes a `RuntimeError` (`SystemExit`, for example), since a
    handler may fail but not end the process that works for others. `on_block` is called with the seconds for which an async
    function let nothing else run on the loop, if they are many.
    """
    try:
        with_ctx, on_loop = _kind(fn)
    except TypeError as exc:
        raise TypeError(f"{fn!r} {exc}") from None
    args = (input, ctx if on_loop else _for_thread(ctx)) if with_ctx else (input,)
    return Apart(_start(fn, args), on_block) if on_loop else _call_in_thread(fn, args, executor)


def check_middleware(fn: object) -> str | None:
    """Return why `fn` can be no middleware, worded to follow its name, or None if it can."""
    if not callable(fn):
        return f"must be a function, not {fn!r:.80}"
    try:
        is_coroutine(fn)
        signature = inspect.signature(fn)
    except TypeError as exc:
        return str(exc)
    except ValueError:  # some functions written in C do not tell
        return None
    try:
        signature.bind(None, None, None)
    except TypeError:
        return f"must take (request, ctx, next), not {signature}"
    return None


def call_middleware(fn: Function, request: Any, ctx: Any, following: Any) -> Awaitable[Any]:
    """Call a middleware as `call` does with a handler; `following` is its third argument."""
    if is_coroutine(fn):
        return Apart(_start(fn, (request, ctx, following)))
    return _call_in_thread(fn, (request, _for_thread(ctx), following), None)


def _for_thread(ctx: Any) -> Any:
    """Return the context for a function that is no coroutine function."""
    return ctx._in_thread() if isinstance(ctx, FlowContext) else ctx


async def _call_in_thread(fn: Function, args: tuple[Any, ...], executor: Executor | None) -> Any:
    context = contextvars.copy_context()
    outcome = await asyncio.get_running_loop().run_in_executor(executor, context.run, _in_thread, fn, args)
    result = outcome.take()
    # A sync function may still hand back an awaitable, such as a lambda around an async function.
    if not inspect.isawaitable(result):
        return result
    return await (result if inspect.isgenerator(result) else Apart(result))  # a generator: of `types.coroutine`


async def call_in_task(fn: Function, input: Any, ctx: Any) -> Any:
    """Call `fn` like `call`, in a task of its own: a function that cancels its own task does not cancel the caller's."""
    return (await asyncio.create_task(_finish(fn, input, ctx))).take()


class Apart:
    """Awaits something in a context of its own: what it sets there does not reach what comes next in the same task.

    Raises what it raises, but for the two exceptions that end the loop: they become RuntimeErrors. `on_block` is called with the
    seconds of each step that took at least `BLOCKED` seconds.
    """

    __slots__ = ("_awaitable", "_on_block")

    def __init__(self, awaitable: Awaitable[Any], on_block: Callable[[float], None] | None = None) -> None:
        self._awaitable = awaitable
        self._on_block = on_block

    def __await__(self) -> Generator[Any, Any, Any]:
        """Run each step of it there."""
        context = contextvars.copy_context()
        steps: Any = self._awaitable.__await__()
        step, given = steps.send, None
        while True:
            began = time.monotonic()
            try:
                waits_for = context.run(step, given)
            except StopIteration as done:
                return done.value
            except (SystemExit, KeyboardInterrupt) as error:
                raise _failure(error) from error
            finally:
                if self._on_block is not None and (seconds := time.monotonic() - began) >= BLOCKED:
                    self._on_block(seconds)
            try:
                given, step = (yield waits_for), steps.send
            except BaseException as error:  # noqa: BLE001  # it is for the coroutine, which is at fault for no frame of this one
                trace = error.__traceback__
                given, step = error.with_traceback(trace and trace.tb_next), steps.throw


def takes_ctx(fn: Function) -> bool:
    """Tell whether `fn` takes a context beside its input."""
    return _kind(fn).takes_ctx


def is_async(fn: Function) -> bool:
    """Tell whether `fn` runs on the event loop."""
    return _kind(fn).is_async


def call_here(fn: Function, input: Any, ctx: Any) -> Any:
    """Call a condition like `call`, but in this thread, and return what it returns: for an async function, its coroutine."""
    with plain_condition():
        return _start(fn, (input, ctx) if _kind(fn).takes_ctx else (input,))


def _start(fn: Function, args: tuple[Any, ...]) -> Any:
    """Call a function in this thread."""
    try:
        return fn(*args)
    except _RESERVED as error:
        raise _failure(error) from error


class _Outcome:
    """What a function returned or raised in a thread or in another task.

    It is the *result* of the future that is awaited. As its exception, some would not arrive: a future refuses a StopIteration
    (Python 3.11 then never resolves it), turns the CancelledError of `concurrent.futures` into a cancellation of the caller, and
    throws a GeneratorExit into the caller's coroutine, where it means `close`.
    """

    __slots__ = ("_error", "_result")

    def __init__(self, result: Any, error: BaseException | None) -> None:
        self._result = result
        self._error = error

    def take(self) -> Any:
        """Return the result or raise the error, once."""
        # Both are forgotten: the error's traceback refers to this frame and to others that hold the outcome. Without a cycle they
        # need no garbage collector.
        (result, error), self._result, self._error = (self._result, self._error), None, None
        if error is None:
            return result
        try:
            raise error
        finally:
            del error


def _in_thread(fn: Function, args: tuple[Any, ...]) -> _Outcome:
    try:
        return _Outcome(_start(fn, args), None)
    except BaseException as error:  # noqa: BLE001  # it is raised where the call is awaited
        return _Outcome(None, error)


async def _finish(fn: Function, input: Any, ctx: Any) -> _Outcome:
    try:
        return _Outcome(await call(fn, input, ctx), None)
    except BaseException as error:  # noqa: BLE001  # it is raised where the task is awaited
        return _Outcome(None, error)


#: What a function may raise by itself, and what means something else to a coroutine, a future or the loop that it passes through:
#: the end of the process, of an iteration, of the task.
_RESERVED = (SystemExit, KeyboardInterrupt, StopIteration, asyncio.CancelledError)


def _failure(error: BaseException) -> RuntimeError:
    """Return the error to raise for one of `_RESERVED`."""
    if issubclass(type(error), SystemExit):
        code = faults.printable(faults.attribute(error, SystemExit, "code"))
        return RuntimeError(f"the function called sys.exit({code})")
    return RuntimeError(f"the function raised {faults.describe(error).line}")


class _Kind(NamedTuple):
    """How a function is to be called."""

    takes_ctx: bool
    is_async: bool


def _kind(fn: Function) -> _Kind:
    """Return how `fn` is to be called. Raises TypeError for a function that cannot be."""
    try:
        hash(fn)
    except TypeError:  # an unhashable callable object: worked out at every call
        return _inspect(fn)
    return _inspect_once(fn)


def _inspect(fn: Function) -> _Kind:
    is_on_loop = is_coroutine(fn)
    try:
        signature = inspect.signature(fn)
    except ValueError:  # some functions written in C do not tell
        return _Kind(True, is_on_loop)
    return _Kind(_signature_takes_ctx(signature), is_on_loop)


def is_coroutine(fn: Function) -> bool:
    """Tell whether a function is a coroutine function. Raises TypeError for a generator function."""
    # For an object with __call__, the flags of the method tell what it is.
    body = fn if inspect.isroutine(fn) or isinstance(fn, functools.partial) else getattr(fn, "__call__", fn)  # noqa: B004
    if inspect.isgeneratorfunction(body) or inspect.isasyncgenfunction(body):
        raise TypeError("must return, not yield")
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(body)


def _signature_takes_ctx(signature: inspect.Signature) -> bool:
    """Tell whether a function of this signature is called with a context. Raises TypeError if it cannot be called at all."""
    parameters = signature.parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    required_keywords = any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters)
    if len(required) > 2 or required_keywords or not (positional or variadic):
        raise TypeError(f"must take (input, ctx) or (input), not {signature}")
    # A second parameter with a default is a value bound in advance (`lambda input, n=n: ...`) unless it is named ctx.
    return len(required) == 2 or variadic or (len(positional) > 1 and positional[1].name.strip("_") == "ctx")


_inspect_once = functools.lru_cache(maxsize=4096)(_inspect)
