"""The ASGI endpoint: finds the step for a request, runs its handler and answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect, Request

from motia_redis._steps.context import FlowContext, TriggerInfo
from motia_redis._steps.invocation import call
from motia_redis._steps.logs import Logger, running_step
from motia_redis._tracing import trace
from motia_redis._web.requests import RejectedRequest, match_path, path_segments, read_api_request, trace_id_of
from motia_redis._web.responses import TRACE_HEADER, json_response, response_of

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from motia_redis._steps.application import Application
    from motia_redis._steps.definitions import Step
    from motia_redis._steps.inputs import ApiRequest
    from motia_redis._steps.triggers import HttpTrigger
    from motia_redis._store.manager import StateManager


class Endpoint:
    """Answers every request of an application's HTTP triggers."""

    def __init__(self, application: Application, state: StateManager, max_body_bytes: int) -> None:
        routes = [(trigger.segments, trigger, step) for trigger, step in application.http_routes]
        # `/users/me` comes before `/users/:id`, whichever was declared first.
        self._routes = sorted(routes, key=lambda route: [segment.startswith(":") for segment in route[0]])
        self._state = state
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        trace_id = trace_id_of(request)
        with trace(trace_id):
            try:
                trigger, step, path_params = self._find(request)
                api_request = await read_api_request(request, path_params, self._max_body_bytes)
                response = await self._run(trigger, step, api_request, trace_id)
            except RejectedRequest as rejected:
                response = json_response(rejected.status, {"error": rejected.error}, rejected.headers)
            except ClientDisconnect:
                return  # nobody is left to answer
        response.headers[TRACE_HEADER] = trace_id
        if request.method == "HEAD":
            response.body = b""  # the headers, content-length among them, stay those of a GET
        await response(scope, receive, send)

    def _find(self, request: Request) -> tuple[HttpTrigger, Step, dict[str, str]]:
        """Return the route for the request and its path parameters."""
        segments = path_segments(request)
        allowed: set[str] = set()
        for method in (request.method, "GET") if request.method == "HEAD" else (request.method,):
            for pattern, trigger, step in self._routes:
                path_params = match_path(pattern, segments)
                if path_params is None:
                    continue
                if trigger.method == method:
                    return trigger, step, path_params
                allowed |= {trigger.method, "HEAD"} if trigger.method == "GET" else {trigger.method}
        if allowed:
            raise RejectedRequest(405, "method not allowed", {"allow": ", ".join(sorted(allowed))})
        raise RejectedRequest(404, "not found")

    async def _run(self, trigger: HttpTrigger, step: Step, request: ApiRequest, trace_id: str) -> Response:
        """Run the handler and return its response, or a 500 that tells nothing but the trace id."""
        logger = Logger(step.name)
        context = FlowContext(
            state=self._state,
            logger=logger,
            trace_id=trace_id,
            trigger=TriggerInfo(type="http", method=trigger.method, path=trigger.path),
            step_name=step.name,
        )
        with running_step(step.name):
            try:
                return response_of(await call(step.handler, request, context))
            except Exception as exc:
                logger.exception(f"{request.method} {request.path} failed: {type(exc).__name__}", {"route": trigger.path})
        return json_response(500, {"error": "internal server error", "trace_id": trace_id})
