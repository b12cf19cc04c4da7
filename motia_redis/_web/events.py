"""Serve the changes of scopes, and of the groups of streams, as server-sent events."""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import TYPE_CHECKING, Any

import orjson
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.routing import Route

from motia_redis._store.stream_groups import StreamGroup, scope_name
from motia_redis._store.watch_items import Bookmark, Change, Synced
from motia_redis._web.responses import json_response
from motia_redis.errors import CorruptValue, HistoryForked, HistoryGone, StateError, StateUnavailable, WatchOverflow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from typing import TypeAlias

    from starlette.requests import Request
    from starlette.responses import Response

    from motia_redis._store.manager import StateManager
    from motia_redis._store.watch import Watch
    from motia_redis._store.watch_items import WatchItem

    Allow: TypeAlias = Callable[[Request, str], bool | Awaitable[bool]]

_log = logging.getLogger("motia_redis.http")

_RETRY = 1000  # milliseconds after which a browser connects again
_PAUSE = 1.0  # seconds before a watch is opened again while Redis is away
_NAMES = {Change: "change", Synced: "synced", Bookmark: "bookmark"}


class StateEvents:
    """Answer `GET <path>/<scope>` with the events of a scope, from where the browser is.

    The scope may be that of a group of a stream: `GET <path>/@motia/stream/<name>/<group>`, see `StreamGroup`.
    `key` or `prefix` in the query choose keys, and `start` where to begin: `now`, `snapshot` or a cursor. A browser that connects
    again sends the cursor of its last event as `Last-Event-ID`, which takes precedence. `allow` decides on each request.
    """

    def __init__(self, state: StateManager, allow: Allow | None) -> None:
        self._state = state
        self._allow = allow

    def route(self, path: str) -> Route:
        """Return the route below a path."""
        return Route(path.rstrip("/") + "/{scope:path}", self._answer, methods=["GET"])

    async def _answer(self, request: Request) -> Response:
        scope, query = scope_name(request.path_params["scope"]), request.query_params
        if self._allow is not None:
            allowed = self._allow(request, scope)
            if not (await allowed if inspect.isawaitable(allowed) else allowed):
                return json_response(403, {"error": f"scope {scope!r:.200} is not for this client"})
        start = request.headers.get("last-event-id") or query.get("start", "now")

        def watch(start: str) -> Watch:
            return self._state.watch(scope, query.get("key"), query.get("prefix"), start=start)

        try:
            watch(start)  # reports wrong arguments
        except StateError as error:
            return json_response(400, {"error": str(error)})
        return EventSourceResponse(_events(watch, start), ping=15)


async def _events(watch: Callable[[str], Watch], start: str) -> AsyncIterator[ServerSentEvent]:
    """Yield events until the client is gone. After a gap the client is told to forget what it has, and gets a snapshot."""
    yield ServerSentEvent(retry=_RETRY)
    while True:
        try:
            async with watch(start) as items:
                async for item in items:
                    start = item.cursor
                    yield _event(item)
        except (HistoryGone, HistoryForked) as error:
            start = "snapshot"
            yield ServerSentEvent(event="reset", data=_json({"reason": str(error)}))
        except StateUnavailable:
            yield ServerSentEvent(comment="Redis is away")
            await asyncio.sleep(_PAUSE)
        except WatchOverflow:
            return  # the client is too slow: it connects again, and goes on after its last event
        except StateError as error:
            _log.warning("the events of a scope end: %s", error)
            yield ServerSentEvent(event="failure", data=_json({"error": str(error)}))
            return


def _event(item: WatchItem) -> ServerSentEvent:
    return ServerSentEvent(event=_NAMES[type(item)], id=item.cursor, data=_json(_content(item)))


def _content(item: WatchItem) -> dict[str, Any]:
    if isinstance(item, Synced):
        return {}
    if isinstance(item, Bookmark):
        return {"timestamp": item.timestamp}
    scope = item.scope
    place = {"stream": scope.stream, "group": scope.group} if isinstance(scope, StreamGroup) else {"scope": scope}
    content: dict[str, Any] = {"type": item.type, **place, "key": item.key, "revision": item.revision}
    try:
        content["value"] = item.value
    except CorruptValue as error:
        content["error"] = str(error)
    if item.reason is not None:
        content["reason"] = item.reason
    if item.transaction is not None:
        content["transaction"] = {"id": item.transaction.id, "size": item.transaction.size, "index": item.transaction.index}
    if item.expires_at is not None:
        content["expires_at"] = item.expires_at
    return content | {"timestamp": item.timestamp}


def _json(content: dict[str, Any]) -> str:
    return orjson.dumps(content).decode()
