"""Send one HTTP request to an ASGI application in this process, without a socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlencode

import orjson

from motia_redis._steps.inputs import ApiResponse
from motia_redis.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import ASGIApp, Message

_NOTHING: Any = object()


async def send_request(
    app: ASGIApp,
    method: str,
    path: str,
    *,
    json: Any = _NOTHING,
    body: bytes | str | None = None,
    query: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> ApiResponse:
    """Return the response to a request. See `App.request`."""
    if json is not _NOTHING and body is not None:
        raise StateError("request takes json=... or body=..., not both")
    sent = {name.lower(): value for name, value in (headers or {}).items()}
    content = body.encode() if isinstance(body, str) else body or b""
    if json is not _NOTHING:
        content = orjson.dumps(json)
        sent.setdefault("content-type", "application/json")
    sent.setdefault("host", "testserver")
    if content:
        sent["content-length"] = str(len(content))
    place, _, in_path = path.partition("?")
    texts = "&".join(filter(None, (in_path, urlencode(query or {}, doseq=True))))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method.upper(),
        "scheme": "http",
        "path": unquote(place),
        "raw_path": place.encode(),
        "root_path": "",
        "query_string": texts.encode(),
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in sent.items()],
        "client": ("127.0.0.1", 50_000),
        "server": ("testserver", 80),
    }
    exchange = _Exchange(content)
    await app(scope, exchange.receive, exchange.send)
    return exchange.response()


class _Exchange:
    """One request and what is answered."""

    def __init__(self, content: bytes) -> None:
        self._content: bytes | None = content
        self._status = 0
        self._headers: dict[str, str | list[str]] = {}
        self._body = b""

    async def receive(self) -> Message:
        """Return the body, and then that the client is gone."""
        content, self._content = self._content, None
        if content is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(self, message: Message) -> None:
        """Collect the response."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            for raw_name, raw_value in message["headers"]:
                name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
                before = self._headers.get(name)
                earlier = [before] if isinstance(before, str) else before
                self._headers[name] = value if earlier is None else [*earlier, value]
        elif message["type"] == "http.response.body":
            self._body += message.get("body", b"")

    def response(self) -> ApiResponse:
        """Return the response, with its body as its content type says."""
        kind = str(self._headers.get("content-type", "")).partition(";")[0].strip()
        body: Any = self._body
        if not self._body:
            body = None
        elif kind == "application/json" or kind.endswith("+json"):
            body = orjson.loads(self._body)
        elif kind.startswith("text/"):
            body = self._body.decode(errors="replace")
        return ApiResponse(status=self._status, body=body, headers=self._headers)
