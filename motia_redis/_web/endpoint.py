"""The HTTP side: requests to handlers and their results to responses, as a Starlette application."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import orjson
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from motia_redis._steps.context import FlowContext, TriggerInfo
from motia_redis._steps.inputs import ApiRequest, ApiResponse
from motia_redis._steps.invocation import call
from motia_redis._steps.logs import Logger, running_step
from motia_redis._tracing import new_trace_id, trace

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from motia_redis._steps.application import Application
    from motia_redis._steps.definitions import HttpTrigger, Step
    from motia_redis._store.manager import StateManager

TRACE_HEADER = "x-trace-id"

_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_RESULT_KEYS = {"status", "body", "headers"}
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# Named by the client, so only plain ones: Python also knows codecs whose cost grows with the square of the text.
_CHARSETS = ("utf-8", "us-ascii", "iso-8859-1", "windows-1252", "utf-16")
_LONG_INTEGER = re.compile(rb"[0-9]{19}")


def create_web_app(application: Application, state: StateManager, *, max_body_bytes: int = 1_048_576) -> Starlette:
    """Return an ASGI application that serves the HTTP triggers of `application` with `state`.

    A request body over `max_body_bytes` is a 413. Every response has the trace id in the header `x-trace-id`. The
    caller connects and closes `state`.
    """
    # One catch-all route: Starlette's own path patterns know neither `:id` nor an encoded slash in a parameter.
    return Starlette(routes=[Route("/{path:path}", _Endpoint(application, state, max_body_bytes))])


class _Refused(Exception):
    """A request that is answered without a handler."""

    def __init__(self, status: int, error: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.headers = headers or {}


class _Endpoint:
    """The ASGI application behind the catch-all route."""

    def __init__(self, application: Application, state: StateManager, max_body_bytes: int) -> None:
        routes = [(trigger.segments, trigger, step) for trigger, step in application.http_routes]
        # `/users/me` comes before `/users/:id`, whichever was declared first.
        self._routes = sorted(routes, key=lambda route: [segment.startswith(":") for segment in route[0]])
        self._state = state
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        trace_id = _trace_id(request)
        with trace(trace_id):
            try:
                trigger, step, path_params = self._find(request)
                body = _decoded(await self._body(request), request.headers.get("content-type", ""))
                response = await self._handled(trigger, step, _api_request(request, path_params, body), trace_id)
            except _Refused as refused:
                response = _json_response(refused.status, {"error": refused.error}, refused.headers)
            except ClientDisconnect:
                return  # nobody is left to answer
        response.headers[TRACE_HEADER] = trace_id
        if request.method == "HEAD":
            response.body = b""  # the headers, content-length among them, stay those of a GET
        await response(scope, receive, send)

    def _find(self, request: Request) -> tuple[HttpTrigger, Step, dict[str, str]]:
        """Return the route for the request and its path parameters."""
        segments = _segments(request)
        allowed: set[str] = set()
        for method in (request.method, "GET") if request.method == "HEAD" else (request.method,):
            for pattern, trigger, step in self._routes:
                path_params = _match(pattern, segments)
                if path_params is None:
                    continue
                if trigger.method == method:
                    return trigger, step, path_params
                allowed |= {trigger.method, "HEAD"} if trigger.method == "GET" else {trigger.method}
        if allowed:
            raise _Refused(405, "method not allowed", {"allow": ", ".join(sorted(allowed))})
        raise _Refused(404, "not found")

    async def _body(self, request: Request) -> bytes:
        """Read the request body, but never more than the limit."""
        # The rest of the body will not be read, so the connection cannot serve another request.
        too_large = _Refused(413, f"body over {self._max_body_bytes} bytes", {"connection": "close"})
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._max_body_bytes:
            raise too_large
        chunks: list[bytes] = []
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > self._max_body_bytes:
                raise too_large
            chunks.append(chunk)
        return b"".join(chunks)

    async def _handled(self, trigger: HttpTrigger, step: Step, request: ApiRequest, trace_id: str) -> Response:
        """Run the handler and return its response, or a 500 that tells nothing but the trace id."""
        logger = Logger(step.name)
        context = FlowContext(
            state=self._state,
            logger=logger,
            trace_id=trace_id,
            trigger=TriggerInfo(type="http", method=trigger.method, path=trigger.path),
            step_name=step.name,
        )
        assert step.handler is not None  # noqa: S101 - an Application holds no step without one
        with running_step(step.name):
            try:
                return _response(await call(step.handler, request, context))
            except Exception as exc:
                logger.exception(f"{request.method} {request.path} failed: {type(exc).__name__}", {"route": trigger.path})
        return _json_response(500, {"error": "internal server error", "trace_id": trace_id})


def _trace_id(request: Request) -> str:
    """Return the trace id of the request's W3C `traceparent` header, or a new one if it has no valid one."""
    match = _TRACEPARENT.fullmatch(request.headers.get("traceparent", "").strip())
    # Version 00 has exactly four fields; later ones may have more.
    return match[2] if match and (match[1] != "00" or match[3] is None) else new_trace_id()


def _segments(request: Request) -> tuple[str, ...]:
    """Return the path's segments, each decoded by itself: an encoded slash belongs to its segment."""
    path: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    parts = path.removeprefix(request.scope.get("root_path", "").encode()).removeprefix(b"/").removesuffix(b"/")
    try:
        return tuple(unquote_to_bytes(part).decode() for part in parts.split(b"/")) if parts else ()
    except UnicodeDecodeError:
        raise _Refused(400, "the path is not UTF-8") from None


def _match(pattern: tuple[str, ...], segments: tuple[str, ...]) -> dict[str, str] | None:
    """Return the path parameters if `segments` fit a route's `pattern`, else None."""
    if len(pattern) != len(segments):
        return None
    path_params: dict[str, str] = {}
    for expected, segment in zip(pattern, segments, strict=True):
        if expected.startswith(":") and segment:
            path_params[expected[1:]] = segment
        elif expected != segment:
            return None
    return path_params


def _api_request(request: Request, path_params: dict[str, str], body: Any) -> ApiRequest:
    query: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        query.setdefault(name, []).append(value)
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        separator = "; " if name == "cookie" else ", "
        headers[name] = f"{headers[name]}{separator}{value}" if name in headers else value
    return ApiRequest(
        method=request.method,
        path=request.scope["path"],
        path_params=path_params,
        query_params={name: values[0] if len(values) == 1 else values for name, values in query.items()},
        headers=headers,
        body=body,
    )


def _decoded(body: bytes, content_type: str) -> Any:
    """Return a request body as its content type says: None if empty, text, bytes or the value of the JSON."""
    if not body:
        return None
    kind, *parameters = (part.strip() for part in content_type.lower().split(";"))
    if kind == "application/octet-stream":
        return body
    if kind.startswith("text/"):
        charset = next((p[8:].strip('"') for p in parameters if p.startswith("charset=")), "utf-8")
        if charset not in _CHARSETS:
            raise _Refused(400, f"the charset of a text body is one of {', '.join(_CHARSETS)}")
        try:
            return body.decode(charset)
        except UnicodeDecodeError:
            raise _Refused(400, f"the body is not text in {charset}") from None
    try:
        # orjson reads an integer over 64 bits as a float; the slower parser keeps every digit.
        if _LONG_INTEGER.search(body):
            return json.loads(body.decode(), parse_constant=_no_constant)
        return orjson.loads(body)
    except (ValueError, RecursionError) as exc:
        reason = exc.reason if isinstance(exc, UnicodeDecodeError) else str(exc)
        raise _Refused(400, f"the body is not valid JSON: {reason}") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _response(result: object) -> Response:
    """Return the response for what a handler returned. Raises TypeError or ValueError if it is none."""
    if result is None:
        return Response(status_code=204)
    if isinstance(result, dict) and ("status" in result or "body" in result) and result.keys() <= _RESULT_KEYS:
        result = ApiResponse(**result)
    if not isinstance(result, ApiResponse):
        got = f"one of {sorted(map(str, result))}" if isinstance(result, dict) else type(result).__name__
        raise TypeError(
            "an HTTP handler returns an ApiResponse, None, or a dict of `status`, `body` and `headers` with at least one of the"
            f" first two and nothing else, not {got}"
        )
    status = result.status
    # A final response cannot have a status under 200; a server that is given one breaks the connection.
    if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 599:
        raise ValueError(f"the status of a response is an integer from 200 to 599, not {status!r}")
    body, content_type = _encoded(result.body)
    response = Response(b"" if status in (204, 304) else body, status)
    _set_headers(response, result.headers)
    if status not in (204, 304):
        response.headers.setdefault("content-type", content_type)
    return response


def _encoded(body: Any) -> tuple[bytes, str]:
    """Return a response body as bytes, and the content type that goes with its kind."""
    if isinstance(body, str):
        return body.encode(), "text/plain; charset=utf-8"
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body), "application/octet-stream"
    return orjson.dumps(body), "application/json"


def _set_headers(response: Response, headers: object) -> None:
    """Add a handler's headers, refusing those that would break the response or smuggle in another."""
    if not isinstance(headers, dict):
        raise TypeError(f"the headers of a response are a dict, not {type(headers).__name__}")
    for name, values in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a header")
        for value in values if isinstance(values, list | tuple) else [values]:
            text = str(value) if isinstance(value, int) else value
            if not isinstance(text, str) or any(c in text for c in "\r\n\0"):
                raise ValueError(f"the header {name!r} cannot hold {value!r}")
            # The length is that of the body, whatever the handler thinks.
            if name.lower() not in ("content-length", "transfer-encoding", TRACE_HEADER):
                response.headers.append(name.lower(), text)


def _json_response(status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, headers, "application/json")
