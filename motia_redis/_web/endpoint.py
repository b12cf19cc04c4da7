"""The ASGI endpoint: finds the step for a request, runs its handler and answers."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect, Request
from starlette.routing import BaseRoute, Match, NoMatchFound

from motia_redis import _tracing
from motia_redis._steps.context import FlowContext, TriggerInfo
from motia_redis._steps.faults import describe
from motia_redis._steps.logs import Logger, running_step
from motia_redis._tracing import trace, trace_id_of
from motia_redis._transport import failures
from motia_redis._transport.outages import Outage
from motia_redis._web.requests import RejectedRequest, match_path, path_segments, read_api_request, trace_of
from motia_redis._web.responses import TRACE_HEADER, json_response, response_of
from motia_redis._web.route import Route
from motia_redis._web.validation import Rejection
from motia_redis.errors import StateUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from starlette.datastructures import URLPath
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from motia_redis._steps.application import Application
    from motia_redis._steps.inputs import ApiRequest
    from motia_redis._store.manager import StateManager

_log = logging.getLogger("motia_redis.http")

_RETRY_AFTER = 5  # seconds, for a client that got a 503


class EveryPath(BaseRoute):
    """A route for all HTTP requests.

    Starlette's own path patterns know neither `:id` nor an encoded slash in a parameter, and none of them matches a line break.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match every HTTP request."""
        return (Match.FULL, {}) if scope["type"] == "http" else (Match.NONE, {})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request."""
        await self._endpoint(scope, receive, send)

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        """Raise NoMatchFound: the routes have no names."""
        raise NoMatchFound(name, path_params)


class _Outage:
    """Report that requests fail because Redis is away. It is back when a step that failed has answered a request."""

    def __init__(self, state: StateManager, is_reported: Callable[[], bool]) -> None:
        self._state = state
        self._is_reported = is_reported  # by others of this process
        self._report: Outage | None = None
        self._steps: set[str] = set()  # that failed

    def failed(self, step: str, error: BaseException) -> None:
        """Note that a step's handler could not reach Redis, or was refused."""
        refused = isinstance(error.__cause__, failures.ErrorReply)
        if not refused and self._is_reported():
            return
        self._steps.add(step)
        if self._report is None:
            self._report = Outage(self._state.url, _log, "requests are answered with 503")
        self._report.failed(describe(error).line, refused=refused)

    def worked(self, step: str) -> None:
        """Note that a step's handler returned. Other steps may not need Redis."""
        if self._report is not None and step in self._steps:
            self._report.answered()
            self._steps.clear()


class Endpoint:
    """Answers every request of an application's HTTP triggers."""

    def __init__(
        self, application: Application, state: StateManager, max_body_bytes: int, is_outage_reported: Callable[[], bool]
    ) -> None:
        routes = [Route(trigger, step) for trigger, step in application.http_routes]
        # `/users/me` comes before `/users/:id`, whichever was declared first.
        self._routes = sorted(routes, key=lambda route: [segment.startswith(":") for segment in route.segments])
        self._state = state
        self._max_body_bytes = max_body_bytes
        self._outage = _Outage(state, is_outage_reported)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        carried, spans = trace_of(request), _tracing.spans
        with trace(carried) if spans is None else spans.request(scope, carried) as carried:
            trace_id = trace_id_of(carried)
            try:
                route, path_params = self._find(request)
                if spans is not None:
                    spans.found(scope, route.trigger.path)
                api_request = await read_api_request(request, path_params, self._max_body_bytes)
                response = await self._run(route, api_request, trace_id)
            except RejectedRequest as rejected:
                response = json_response(rejected.status, {"error": rejected.error}, rejected.headers)
            except ClientDisconnect:
                return  # nobody is left to answer
            except asyncio.CancelledError:
                # The process ends. The server would answer with a 500 that has no trace id.
                await _stopping(trace_id)(scope, receive, send)
                raise
            except Exception:  # noqa: BLE001  # the client gets an answer with the trace id, as for an error of a handler
                _log.exception("%s %s failed: a defect of motia-redis", request.method, request.scope["path"])
                response = _server_error(trace_id)
            if spans is not None:
                spans.answered(scope, response.status_code)
        response.headers[TRACE_HEADER] = trace_id
        if request.method == "HEAD":
            response.body = b""  # the headers, content-length among them, stay those of a GET
        await response(scope, receive, send)

    def _find(self, request: Request) -> tuple[Route, dict[str, str]]:
        """Return the route for the request and its path parameters."""
        segments = path_segments(request)
        allowed: set[str] = set()
        for method in (request.method, "GET") if request.method == "HEAD" else (request.method,):
            for route in self._routes:
                path_params = match_path(route.segments, segments)
                if path_params is None:
                    continue
                answered = route.trigger.method
                if answered == method:
                    return route, path_params
                allowed |= {answered, "HEAD"} if answered == "GET" else {answered}
        if allowed:
            raise RejectedRequest(405, "method not allowed", {"allow": ", ".join(sorted(allowed))})
        raise RejectedRequest(404, "not found")

    async def _run(self, route: Route, request: ApiRequest, trace_id: str) -> Response:
        """Run the route and return its response, or a 500 that tells nothing but the trace id."""
        trigger, step = route.trigger, route.step
        logger = Logger(step.name)
        context = FlowContext(
            state=self._state,
            logger=logger,
            trace_id=trace_id,
            trigger=TriggerInfo(type="http", index=route.index, method=trigger.method, path=trigger.path),
            step_name=step.name,
            input_value=request,
        )
        with running_step(step.name):
            try:
                result = await route.run(request, context)
            except BaseException as error:  # a handler may raise anything, and the request needs an answer
                if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                    raise
                if _is_unavailable(error):
                    self._outage.failed(step.name, error)
                    headers = {"retry-after": str(_RETRY_AFTER)}
                    return json_response(503, {"error": "the state is unavailable", "trace_id": trace_id}, headers)
                fault = describe(error)
                logger.exception(f"{request.method} {request.path} failed: {fault.type}", {"route": trigger.path})
                return _server_error(trace_id)
            try:
                response = response_of(result)
                mismatches = route.response_mismatches(result, response)
            except Exception as error:  # noqa: BLE001  # the result may hold any objects
                # No traceback: the handler has returned, and is in none of the frames.
                source = "the handler or a middleware" if trigger.middleware else "the handler"
                reason = f"no response from what {source} returned: {describe(error).line}"
                logger.error(f"{request.method} {request.path}: {reason}", {"route": trigger.path})  # noqa: TRY400
                return _server_error(trace_id)
            if mismatches:
                reason = f"the response does not match 'response_schema' for the status {response.status_code}"
                places = "; ".join(map(str, mismatches))
                logger.error(f"{request.method} {request.path}: {reason}: {places}", {"route": trigger.path})
                return _server_error(trace_id)
        if not isinstance(result, Rejection):
            self._outage.worked(step.name)
        return response


def _server_error(trace_id: str) -> Response:
    return json_response(500, {"error": "internal server error", "trace_id": trace_id})


def _stopping(trace_id: str) -> Response:
    """Return the response to a request that is not finished when the process ends."""
    headers = {"retry-after": str(_RETRY_AFTER), "connection": "close", TRACE_HEADER: trace_id}
    return json_response(503, {"error": "the server is stopping", "trace_id": trace_id}, headers)


def _is_cancelled() -> bool:
    """Return whether somebody else has cancelled this task."""
    task = asyncio.current_task()
    return task is not None and bool(task.cancelling())


def _is_unavailable(error: BaseException) -> bool:
    """Return whether Redis was away, for all that a handler did: in a group, all errors say so."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_unavailable, error.exceptions))
    return isinstance(error, StateUnavailable)
