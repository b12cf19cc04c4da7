"""The entry to HTTP steps; Starlette is imported when an application is created, not with this module."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from motia_redis._steps.application import Application
    from motia_redis._store.manager import StateManager


def create_web_app(application: Application, state: StateManager, *, max_body_bytes: int = 1_048_576) -> Starlette:
    """Return an ASGI application that serves the HTTP triggers of an application.

    A handler's result becomes the response; a handler that raises is a 500 that tells only the trace id. Every response
    has the trace id in the header `x-trace-id`: that of the request's `traceparent`, else a new one.

    Arguments:
        application: the steps; those without an HTTP trigger are left out.
        state: what handlers get as `ctx.state`. The caller connects and closes it.
        max_body_bytes: the largest request body; a larger one is answered with 413.
    """
    from starlette.applications import Starlette  # noqa: PLC0415 - see the module's docstring
    from starlette.routing import Route  # noqa: PLC0415

    from motia_redis._web.endpoint import Endpoint  # noqa: PLC0415

    # One catch-all route: Starlette's own path patterns know neither `:id` nor an encoded slash in a parameter.
    return Starlette(routes=[Route("/{path:path}", Endpoint(application, state, max_body_bytes))])
