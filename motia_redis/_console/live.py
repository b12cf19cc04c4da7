"""The page that shows changes as they happen, and the server-sent events that it follows."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.routing import Route

from motia_redis._console.comparing import compare, show
from motia_redis._console.following import KINDS, Choice, Follower, kind_of
from motia_redis._console.pages import count, moment, one_line, size
from motia_redis._console.trees import Line, to_json
from motia_redis._store.browsing import texts_of
from motia_redis._store.cursors import Cursor
from motia_redis._store.json_texts import TEXTS
from motia_redis._store.stream_groups import scope_name
from motia_redis.errors import CorruptValue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.responses import Response

    from motia_redis._console.following import Message
    from motia_redis._console.pages import Console
    from motia_redis._store.watch_items import Change

_RETRY = 1000  # milliseconds after which a browser connects again
_PING = 15  # seconds
_LARGEST_COMPARED = 4 * 1024  # bytes of each of two texts whose difference is shown
_MOST_LINES = 14  # of one difference
_MOST_PREVIEW = 300  # characters


@dataclass(frozen=True, slots=True)
class _Row:
    """A change as the page shows it."""

    scope: str
    key: str
    kind: str
    note: str
    revision: str
    time: str
    lines: list[Line]
    preview: str


class Live:
    """Show changes, to each browser those it has chosen."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def routes(self) -> list[Route]:
        """Return the routes of the page and its events."""
        return [Route("/live", self._page), Route("/live/events", self._events, methods=["GET"])]

    async def _page(self, request: Request) -> Response:
        choice = _choice(request)
        choice.watch(self._console.state, "now")  # reports what does not fit
        return self._console.page(request, "live.html", choice=choice, kinds=KINDS)

    async def _events(self, request: Request) -> Response:
        start, choice = request.headers.get("last-event-id") or request.query_params.get("start", ""), _choice(request)
        choice.watch(self._console.state, "now")  # reports what does not fit
        if start:
            Cursor.decode(start)  # nothing else is a place to go on from
        return EventSourceResponse(self._told(request, choice, start), ping=_PING)

    async def _told(self, request: Request, choice: Choice, start: str) -> AsyncIterator[ServerSentEvent]:
        yield ServerSentEvent(retry=_RETRY)
        async with contextlib.aclosing(Follower(self._console.state, choice, start).messages()) as messages:
            async for message in messages:
                rows = []
                for change in message.changes:
                    rows.append(self._row(change))
                    await asyncio.sleep(0)  # the rows of one browser must not delay another
                yield self._event(request, message, rows)

    def _event(self, request: Request, message: Message, rows: list[_Row]) -> ServerSentEvent:
        name, data = "position", "1"  # an event without data is none for a browser
        if message.word is not None:
            name, data = "standing", message.word
        elif message.failure:
            name, data = "failure", one_line(message.failure, 500)
        elif message.gap is not None:
            text = self._console.render(request, "live_gap.html", gap=message.gap, is_forked=message.is_forked)
            name, data = "gap", text.decode()
        elif rows:
            name, data = "change", self._console.render(request, "live_rows.html", rows=rows).decode()
        return ServerSentEvent(event=name, id=message.cursor or None, data=data)

    def _row(self, change: Change) -> _Row:
        scope, key, kind = change.scope, change.key, kind_of(change)
        old, new = texts_of(change)
        notes: list[str] = ["import"] if change.reason == "import" else []
        lines: list[Line] = []
        preview = ""
        if kind in ("updated", "ttl"):
            difference = compare(self._console.redaction, scope, key, old, new, most=_LARGEST_COMPARED)
            lines = [line for line in difference.lines if kind == "updated" or line.kind != "same"]
            if len(lines) > _MOST_LINES:
                lines[_MOST_LINES:] = [Line("gap", f"… {count(len(lines) - _MOST_LINES)} more lines")]
            if not lines:
                notes.append(difference.note)
        else:
            preview = self._preview(scope, key, old if change.is_deletion else new)
        if change.expires_at is not None and kind == "created":
            notes.append(f"expires {change.expires_at - change.timestamp / 1000:.0f} s later")
        return _Row(scope, key, kind, " · ".join(notes), change.revision, _time(change.timestamp), lines, preview)

    def _preview(self, scope: str, key: str, text: bytes | None) -> str:
        if text is None:
            return ""
        if len(text) > _LARGEST_COMPARED:
            return f"a value of {size(len(text))}"
        try:
            shown = show(self._console.redaction, scope, key, TEXTS.decode(text, subject=key))
        except CorruptValue as error:
            return one_line(str(error))
        return one_line(to_json(shown.value), _MOST_PREVIEW)


def _time(milliseconds: int) -> str:
    return moment(milliseconds // 1000).replace(" UTC", f".{milliseconds % 1000:03} UTC")


def _choice(request: Request) -> Choice:
    query = request.query_params
    kinds = frozenset(",".join(query.getlist("type")).split(",")) & frozenset(KINDS)
    return Choice(scope_name(query.get("scope", "")), query.get("key", ""), query.get("prefix", ""), kinds)
