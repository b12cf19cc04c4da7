"""Put the pages together to an ASGI application, and answer what goes wrong in any of them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from motia_redis._console.access import Access
from motia_redis._console.letters import Letters
from motia_redis._console.live import Live
from motia_redis._console.overview import Overview
from motia_redis._console.pages import STATIC, Console
from motia_redis._console.redacting import Redaction
from motia_redis._console.scopes import Scopes
from motia_redis._console.values import Values
from motia_redis.errors import StateError, StateUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from motia_redis._store.manager import StateManager

_log = logging.getLogger("motia_redis.console")

#: No inline code, nothing from elsewhere, and no frame of another page around it.
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_OPEN = ("/static/", "/login")  # paths below the console's that need no login


def build(state: StateManager, *, allow_changes: bool, token: str | None, allow: Any, redact: Sequence[str]) -> Starlette:
    """Return the application: see `create_console_app`."""
    console = Console(state, Access(token=token, allow=allow, allow_changes=allow_changes), Redaction(redact))
    routes = [
        *Overview(console).routes(),
        *Scopes(console).routes(),
        *Values(console).routes(),
        *Letters(console).routes(),
        *Live(console).routes(),
        Route("/login", _login(console), methods=["GET", "POST"]),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]

    async def refuse(request: Request, error: Exception) -> Response:
        status, text = (error.status_code, error.detail) if isinstance(error, HTTPException) else (500, str(error))
        return console.page(request, "error.html", code=status, title=_TITLES.get(status, "Error"), text=text)

    async def fail(request: Request, error: Exception) -> Response:
        status = 503 if isinstance(error, StateUnavailable) else 400
        title = "Redis does not answer" if status == 503 else "This cannot be done"
        return console.page(request, "error.html", code=status, title=title, text=str(error))

    app = Starlette(routes=routes, exception_handlers={HTTPException: refuse, StateError: fail})
    app.add_middleware(_Guard, console=console)
    return app


_TITLES = {403: "Not allowed", 404: "Not found", 405: "Not possible", 413: "Too large"}


class _Guard:
    """Check each request before its page is made, and add the headers that every answer has."""

    def __init__(self, app: ASGIApp, console: Console) -> None:
        self._app = app
        self._console = console

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise HTTPException(400)
        request = Request(scope, receive)
        is_static = _path(scope).startswith(_OPEN[0])

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = dict(_HEADERS)
                if is_static:
                    headers["cache-control"] = "max-age=3600"
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in headers.items())]
            await send(message)

        answer = None
        if not _path(scope).startswith(_OPEN):
            try:
                answer = await self._console.access.check(request)
            except HTTPException as error:
                answer = self._console.page(request, "error.html", code=error.status_code, title="Not allowed", text=error.detail)
        await (answer or self._app)(scope, receive, send_with_headers)


def _path(scope: Scope) -> str:
    """Return the path below the console's own."""
    path: str = scope["path"]
    root = scope.get("root_path", "")
    return path.removeprefix(root) if root and path.startswith(root) else path


def _login(console: Console) -> Callable[[Request], Awaitable[Response]]:
    async def login(request: Request) -> Response:
        if not console.access.has_login:
            raise HTTPException(404, "This console asks for no token.")
        problem = ""
        if request.method == "POST":
            form = await console.access.read_form(request, changes=False)
            if (answer := await console.access.log_in(request, form.get("token", ""))) is not None:
                return answer
            problem = "This is not the token."
        return console.page(request, "login.html", code=403 if problem else 200, problem=problem)

    return login
