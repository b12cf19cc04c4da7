"""Call the function of `modify` in the thread that has called `modify`, while the loop reads and writes."""

from __future__ import annotations

import asyncio
import inspect
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from motia_redis._sync import loop_thread
from motia_redis.errors import InvalidValue

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    #: A value, and the future of what the function makes of it: the new value, or what it has raised.
    _Question = tuple[Any, asyncio.Future[tuple[Any, Exception | None]]]


class Function:
    """A function of the calling thread, which the loop can call."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self._questions: SimpleQueue[_Question | None] = SimpleQueue()  # None: there are no more

    def run(self, name: str, modify: Callable[[Callable[[Any], Awaitable[Any]]], Coroutine[Any, Any, Any]]) -> Any:
        """Return the result of `modify`, which gets an async function that calls the one of this thread."""

        async def make() -> Any:
            try:
                return await modify(self._ask)
            finally:
                self._questions.put(None)

        return loop_thread.run_serving(name, make, self._serve)

    async def _ask(self, value: Any) -> Any:
        """Let the thread call the function, in the loop."""
        answer: asyncio.Future[tuple[Any, Exception | None]] = asyncio.get_running_loop().create_future()
        self._questions.put((value, answer))
        result, error = await answer
        if error is not None:
            raise error
        return result

    def _serve(self) -> None:
        """Answer questions, in the calling thread. What is no Exception, such as KeyboardInterrupt, ends the call."""
        while (question := self._questions.get()) is not None:
            value, future = question
            try:
                answer = self._call(value), None
            except Exception as error:  # noqa: BLE001 - whatever it is, `modify` raises it
                future.get_loop().call_soon_threadsafe(_settle, future, (None, error))
            else:
                future.get_loop().call_soon_threadsafe(_settle, future, answer)

    def _call(self, value: Any) -> Any:
        result = self._function(value)
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise InvalidValue(
                "modify of motia_redis.sync takes a plain function, not an async one: use motia_redis.StateManager"
            )
        return result


def _settle(future: asyncio.Future[Any], answer: object) -> None:
    if not future.done():  # the call was cancelled
        future.set_result(answer)
