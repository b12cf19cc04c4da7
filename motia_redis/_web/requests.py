"""From an HTTP request to what a handler gets: trace id, path segments, body and `ApiRequest`."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote_to_bytes

import orjson

from motia_redis._steps.inputs import ApiRequest
from motia_redis._tracing import new_trace_id, trace_of_headers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.requests import Request

# Named by the client, so only plain ones: Python also knows codecs whose cost grows with the square of the text.
_CHARSETS = ("utf-8", "us-ascii", "iso-8859-1", "windows-1252", "utf-16")
_LONG_INTEGER = re.compile(rb"[0-9]{19}")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_FORM = "application/x-www-form-urlencoded"
_ACCEPTED = f"application/json, {_FORM}, text/*, application/octet-stream"


class RejectedRequest(Exception):
    """Reject a request with a status and an error text, before a handler sees the request."""

    def __init__(self, status: int, error: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.headers = headers or {}


def trace_of(request: Request) -> str:
    """Return the trace of the request's headers (W3C Trace Context), or a new one if they have no valid one."""
    headers = request.headers
    return trace_of_headers(headers.get("traceparent", ""), ",".join(headers.getlist("tracestate"))) or new_trace_id()


def path_segments(request: Request) -> tuple[str, ...]:
    """Return the segments of the path below the mount, each decoded by itself: an encoded slash belongs to its segment.

    Raises RejectedRequest for a path that is not UTF-8.
    """
    path: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    if root := request.scope.get("root_path", "").encode():
        # The root is decoded, and some servers leave it out of the path.
        pieces, depth = path.split(b"/"), root.count(b"/") + 1
        if unquote_to_bytes(b"/".join(pieces[:depth])) == root:
            path = b"/".join([b"", *pieces[depth:]])
    parts = path.removeprefix(b"/").removesuffix(b"/")
    try:
        return tuple(unquote_to_bytes(part).decode() for part in parts.split(b"/")) if parts else ()
    except UnicodeDecodeError:
        raise RejectedRequest(400, "the path is not UTF-8") from None


def match_path(pattern: tuple[str, ...], segments: tuple[str, ...]) -> dict[str, str] | None:
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


async def read_api_request(request: Request, path_params: dict[str, str], max_body_bytes: int) -> ApiRequest:
    """Read the body and return the request as its handler gets it.

    Raises RejectedRequest for a body that is over `max_body_bytes` or is not what its content type says.
    """
    raw_body = await _read_body(request, max_body_bytes)
    body = _decode(raw_body, request.headers.get("content-type", ""))
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        separator = "; " if name == "cookie" else ", "
        headers[name] = f"{headers[name]}{separator}{value}" if name in headers else value
    return ApiRequest(
        method=request.method,
        path=request.scope["path"],
        path_params=path_params,
        query_params=_gathered(request.query_params.multi_items()),
        headers=headers,
        body=body,
        raw_body=raw_body,
    )


def media_type_of(content_type: str) -> str:
    """Return the media type of a content type: lower-case, without parameters, the first of several."""
    return re.split("[;,]", content_type, maxsplit=1)[0].strip().lower()


def is_json(media_type: str) -> bool:
    """Return whether bodies of a media type are JSON. Those without one are."""
    return media_type in ("", "application/json") or media_type.endswith("+json")


def _gathered(pairs: Iterable[tuple[str, str]]) -> dict[str, str | list[str]]:
    """Return parameters by name: text, or a list of texts for a name given more than once."""
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


async def _read_body(request: Request, max_bytes: int) -> bytes:
    """Return the body, reading no more than the limit and one chunk."""
    # The rest of the body will not be read, so the connection cannot serve another request.
    too_large = RejectedRequest(413, f"body over {max_bytes} bytes", {"connection": "close"})
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > max_bytes:
        raise too_large
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise too_large
        chunks.append(chunk)
    return b"".join(chunks)


def _decode(body: bytes, content_type: str) -> Any:
    """Return a body as its content type says, or None if it is empty."""
    if not body:
        return None
    kind = media_type_of(content_type)
    parameters = [part.strip() for part in content_type.lower().split(";")[1:]]
    if kind.startswith("text/"):
        return _decode_text(body, parameters)
    if is_json(kind):
        return _decode_json(body)
    if kind == _FORM:
        return _decode_form(body)
    if kind.startswith("multipart/"):
        raise RejectedRequest(415, f"{kind:.100} is not accepted; send one of: {_ACCEPTED}", {"accept": _ACCEPTED})
    return body


def _decode_form(body: bytes) -> dict[str, str | list[str]]:
    try:
        return _gathered(parse_qsl(body.decode(), keep_blank_values=True, errors="strict"))
    except ValueError:  # UnicodeDecodeError is one
        raise RejectedRequest(400, "the body is not a form in UTF-8") from None


def _decode_text(body: bytes, parameters: list[str]) -> str:
    charset = next((p[8:].strip('"') for p in parameters if p.startswith("charset=")), "utf-8")
    if charset not in _CHARSETS:
        raise RejectedRequest(400, f"the charset of a text body must be one of {', '.join(_CHARSETS)}")
    try:
        return body.decode(charset)
    except UnicodeDecodeError:
        raise RejectedRequest(400, f"the body is not text in {charset}") from None


def _decode_json(body: bytes) -> Any:
    try:
        # orjson reads an integer over 64 bits as a float; the slower parser keeps every digit.
        return _decode_slowly(body.decode()) if _LONG_INTEGER.search(body) else orjson.loads(body)
    except (ValueError, RecursionError) as exc:
        reason = exc.reason if isinstance(exc, UnicodeDecodeError | UnicodeEncodeError) else str(exc)
        raise RejectedRequest(400, f"the body is not valid JSON: {reason}") from None


def _decode_slowly(text: str) -> Any:
    """Return the value of a JSON text. Reject what orjson rejects: NaN, numbers over the range of floats, lone surrogates."""
    value = json.loads(text, parse_constant=_reject_constant, parse_float=_finite)
    if _SURROGATE.search(text):  # of a pair, mostly
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits:.40} is over the range of numbers")
    return number


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
