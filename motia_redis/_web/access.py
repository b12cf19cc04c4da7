"""A log line for each request, and the requests that are not answered yet."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from motia_redis._web.responses import TRACE_HEADER

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = logging.getLogger("motia_redis.http")


class RequestLog:
    """Wrap an ASGI application. Know its running requests, and log each at its end if `writes` is true.

    A line has the method, the path and the status, with the duration, the client and the trace id as fields. It has no query and
    no header, which may hold secrets.
    """

    def __init__(self, app: ASGIApp, *, writes: bool) -> None:
        self._app = app
        self._writes = writes
        self._running: dict[int, tuple[str, float]] = {}

    def running(self) -> list[str]:
        """Describe the requests that are not answered yet, the oldest first."""
        now = time.monotonic()
        return [f"{name} (for {now - began:.1f} s)" for name, began in self._running.values()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status: int | None = None
        trace_id: str | None = None

        async def watch(message: Message) -> None:
            nonlocal status, trace_id
            if message["type"] == "http.response.start":
                status = message["status"]
                names = {name: value for name, value in message["headers"] if name == TRACE_HEADER.encode()}
                trace_id = names.get(TRACE_HEADER.encode(), b"").decode("latin-1") or None
            await send(message)

        name, began, request = f"{scope['method']} {scope['path']}", time.monotonic(), id(scope)
        self._running[request] = name, began
        try:
            await self._app(scope, receive, watch)
        finally:
            del self._running[request]
            if self._writes:
                client = scope.get("client")
                fields = {"ms": round((time.monotonic() - began) * 1000, 1), "client": client[0] if client else None}
                outcome = "not answered: the connection ended" if status is None else status
                _log.info("%s %s", name, outcome, extra={"trace_id": trace_id, "fields": fields})
