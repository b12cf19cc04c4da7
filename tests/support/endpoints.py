"""Applications of HTTP steps behind the ASGI interface, without Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx

from motia_redis import StateManager
from motia_redis._steps.application import Application
from motia_redis._steps.definitions import Step, step
from motia_redis._steps.triggers import http
from motia_redis._web.app import create_web_app

if TYPE_CHECKING:
    from motia_redis._steps.inputs import ApiRequest

#: A manager that is never connected.
UNUSED_STATE = StateManager("redis://user:secret@h:1/0")
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


def route(method: str, path: str, handler: Any, name: str | None = None) -> Step:
    """Return a step with one HTTP route."""
    label = name or "".join(c if c.isalnum() else "-" for c in f"{method}{path}")
    return step({"name": label, "triggers": [http(method, path)]}).handle(handler)


def client(*steps: Step, **options: Any) -> httpx.AsyncClient:
    """Return a client of an application of these steps."""
    app = create_web_app(Application(steps), UNUSED_STATE, **options)
    # Errors that leave the application are reported to the test, not turned into a 500 by the transport.
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


def echo(request: ApiRequest) -> dict[str, Any]:
    """Answer with what the request holds."""
    return {"body": request.path_params}
