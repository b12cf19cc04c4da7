"""Run the middleware of a route around its handler."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from motia_redis._steps.invocation import call_middleware
from motia_redis._web.responses import api_response_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from motia_redis._steps.context import FlowContext
    from motia_redis._steps.http_options import ApiMiddleware
    from motia_redis._steps.inputs import ApiRequest, ApiResponse

    Handler = Callable[[ApiRequest, FlowContext], Awaitable[Any]]


async def run_through(middleware: Sequence[ApiMiddleware], handler: Handler, request: ApiRequest, ctx: FlowContext) -> Any:
    """Return what the outermost middleware returns, or the handler if there is none. Raises what they raise.

    Raises RuntimeError for a middleware that calls `next` twice, or calls it and does not await what it returns.
    """
    if not middleware:
        return await handler(request, ctx)
    outermost, inner = middleware[0], middleware[1:]
    following = _Next(outermost, lambda: run_through(inner, handler, request, ctx))
    try:
        result = await call_middleware(outermost, request, ctx, following)
    finally:
        is_forgotten = following.close()
    if is_forgotten or inspect.isawaitable(result):
        raise RuntimeError(f"the middleware {_name(outermost)} called next() without `await`; write `await next()`")
    return result


class _Next:
    """What a middleware calls for the response of all that it wraps."""

    def __init__(self, middleware: ApiMiddleware, run: Callable[[], Awaitable[Any]]) -> None:
        self._middleware = middleware
        self._run = run
        self._running: Any = None

    def __call__(self) -> Awaitable[ApiResponse]:
        """Return the response, as a coroutine."""
        if self._running is not None:
            raise RuntimeError(f"the middleware {_name(self._middleware)} called next() twice; a handler runs once in a request")
        self._running = self._respond()
        return self._running  # type: ignore[no-any-return]

    async def _respond(self) -> ApiResponse:
        return api_response_of(await self._run())

    def close(self) -> bool:
        """End the coroutine if nobody has awaited it, and return whether that is so."""
        if self._running is None or inspect.getcoroutinestate(self._running) != inspect.CORO_CREATED:
            return False
        self._running.close()
        return True


def _name(middleware: ApiMiddleware) -> str:
    return getattr(middleware, "__qualname__", repr(middleware))
