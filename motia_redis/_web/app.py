"""The entry to HTTP steps; Starlette is imported when an application is created, not with this module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from motia_redis.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from motia_redis._steps.application import Application
    from motia_redis._store.manager import StateManager


def create_web_app(
    application: Application,
    state: StateManager,
    *,
    max_body_bytes: int = 1_048_576,
    cors_origins: Sequence[str] = (),
    watch: str | None = None,
    allow: Callable[[Request, str], bool | Awaitable[bool]] | None = None,
) -> Starlette:
    """Return an ASGI application that serves the HTTP triggers of an application.

    A handler's result becomes the response. A handler that raises is a 500 that tells only the trace id; if it raised
    StateUnavailable, the response is a 503 with `Retry-After`. Every response has the trace id in the header `x-trace-id`: that
    of the request's `traceparent`, else a new one. (Only the answer to a preflight of CORS has none.)

    It can be mounted below a path of another ASGI application, as in `app.mount("/api", create_web_app(application, state))`.
    Its routes begin behind that path. It has no lifespan of its own.

    Arguments:
        application: the steps; those without an HTTP trigger are left out.
        state: what handlers get as `ctx.state`. The caller connects and closes it.
        max_body_bytes: the largest request body; a larger one is answered with 413.
        cors_origins: the origins whose pages may read responses in a browser, such as `https://app.example.com`; `*` for all.
            Cookies are not allowed. Empty: no header of CORS is sent.
        watch: the path below which a browser's `EventSource` follows scopes: with `/state`, the scope `carts` is at
            `/state/carts`, and the group `inbox` of the stream `todo` at `/state/@motia/stream/todo/inbox`. None: nowhere. It
            needs the extra `sse`. Raises StateError without it.
        allow: called with the request and the scope before a client follows it; a false result is a 403. It may be async. The
            scope of a stream's group is a `StreamGroup`: text with the attributes `stream` and `group`. None: every client may
            follow every scope and every stream.
    """
    return build_web_app(
        application,
        state,
        max_body_bytes=max_body_bytes,
        cors_origins=cors_origins,
        is_outage_reported=lambda: False,
        watch=watch,
        allow=allow,
    )


def build_web_app(
    application: Application,
    state: StateManager,
    *,
    max_body_bytes: int,
    cors_origins: Sequence[str],
    is_outage_reported: Callable[[], bool],
    watch: str | None = None,
    allow: Callable[[Request, str], bool | Awaitable[bool]] | None = None,
) -> Starlette:
    """Do what `create_web_app` does. While `is_outage_reported` is true, the log is silent about requests that need Redis."""
    from starlette.applications import Starlette  # noqa: PLC0415 - see the module's docstring
    from starlette.middleware import Middleware  # noqa: PLC0415
    from starlette.middleware.cors import CORSMiddleware  # noqa: PLC0415

    from motia_redis._steps.triggers import HTTP_METHODS  # noqa: PLC0415
    from motia_redis._web.endpoint import Endpoint, EveryPath  # noqa: PLC0415
    from motia_redis._web.responses import TRACE_HEADER  # noqa: PLC0415

    if isinstance(cors_origins, str):
        raise TypeError(f"cors_origins must be a list of origins, not the text {cors_origins!r}")
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(cors_origins),
        allow_methods=list(HTTP_METHODS),
        allow_headers=["*"],
        expose_headers=[TRACE_HEADER],
    )
    routes: list[BaseRoute] = [EveryPath(Endpoint(application, state, max_body_bytes, is_outage_reported))]
    if watch is not None:
        if not watch.startswith("/"):
            raise StateError(f"watch must be a path that begins with '/', not {watch!r:.200}")
        try:
            from motia_redis._web.events import StateEvents  # noqa: PLC0415
        except ImportError:
            raise StateError("watch needs the package sse-starlette: pip install 'motia-redis[sse]'") from None
        routes.insert(0, StateEvents(state, allow).route(watch))
    return Starlette(routes=routes, middleware=[cors] if cors_origins else [])
