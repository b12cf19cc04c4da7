"""From what a handler returned to an HTTP response."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import Response

from motia_redis._steps.inputs import ApiResponse
from motia_redis._store import codec
from motia_redis.errors import InvalidValue

if TYPE_CHECKING:
    from collections.abc import Iterator

TRACE_HEADER = "x-trace-id"

_BODY = "the body of the response"
_RESULT_KEYS = {"status", "body", "headers"}
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEADER_VALUE = re.compile(r"[\t -~\x80-\xff]*")  # ISO 8859-1 without control characters
# The length is that of the body, and the trace id that of the request, whatever the handler says.
_OWN_HEADERS = ("content-length", "transfer-encoding", TRACE_HEADER)


def response_of(result: object) -> Response:
    """Return the response for what a handler returned.

    Raises TypeError, ValueError or InvalidValue if no response can be made of it. The error names the part.
    """
    result = api_response_of(result)
    status = result.status
    # A final response cannot have a status under 200; a server that is given one breaks the connection.
    if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 599:
        raise ValueError(f"the status of a response must be an integer from 200 to 599, not {status!r}")
    body, content_type = _encode(result.body)
    response = Response(b"" if status in (204, 304) else body, status)
    for name, text in _checked_headers(result.headers):
        if name not in _OWN_HEADERS:
            response.headers.append(name, text)
    if status not in (204, 304):
        response.headers.setdefault("content-type", content_type)
    return response


def api_response_of(result: object) -> ApiResponse:
    """Return what a handler returned as an ApiResponse, unchecked. Raises TypeError for what is none."""
    if result is None:
        return ApiResponse(204)
    if isinstance(result, dict) and ("status" in result or "body" in result) and result.keys() <= _RESULT_KEYS:
        result = ApiResponse(**result)
    if not isinstance(result, ApiResponse):
        got = f"a dict of {sorted(map(str, result))}" if isinstance(result, dict) else type(result).__name__
        raise TypeError(
            "an HTTP handler must return an ApiResponse, None, or a dict with `status` or `body` or both and perhaps `headers`,"
            f" not {got}"
        )
    return result


def json_response(status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    """Return a response of our own."""
    return Response(orjson.dumps(body), status, headers, "application/json")


def _encode(body: Any) -> tuple[bytes, str]:
    """Return a response body as bytes, and the content type that goes with its kind."""
    if isinstance(body, str):
        try:
            return body.encode(), "text/plain; charset=utf-8"
        except UnicodeEncodeError:
            raise InvalidValue(f"{_BODY}: text with a lone surrogate: {body!r:.80}") from None
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body), "application/octet-stream"
    return codec.to_json(body, subject=_BODY), "application/json"


def _checked_headers(headers: object) -> Iterator[tuple[str, str]]:
    """Yield a handler's headers, rejecting those that would break the response or smuggle in another."""
    if not isinstance(headers, dict):
        raise TypeError(f"the headers of a response must be a dict, not {type(headers).__name__}")
    for name, values in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of a header")
        for value in values if isinstance(values, list | tuple) else [values]:
            yield name.lower(), _checked_header(name, value)


def _checked_header(name: str, value: object) -> str:
    text = str(value) if isinstance(value, int) else value
    if not isinstance(text, str) or not _HEADER_VALUE.fullmatch(text):
        raise ValueError(f"the header {name!r} cannot hold {value!r:.200}")
    return text
