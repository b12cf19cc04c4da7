"""The page of one value, and what changes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from motia_redis._console.access import audit
from motia_redis._console.comparing import compare, show
from motia_redis._console.pages import link
from motia_redis._console.trees import Number, differences, to_json, tree
from motia_redis._store import browsing
from motia_redis._store.expiry import KEEP
from motia_redis._store.json_texts import exact, parse, with_texts
from motia_redis._store.stream_groups import scope_name
from motia_redis._store.times import parse_duration
from motia_redis.errors import CorruptValue, RevisionConflict, StateError, StateUnavailable

if TYPE_CHECKING:
    from starlette.requests import Request

    from motia_redis._console.comparing import Difference, Shown
    from motia_redis._console.pages import Console
    from motia_redis._store.browsing import KeyEvent

_LARGEST_EDITED = 64 * 1024  # characters of a text in the page
_LARGEST_COMPARED = 32 * 1024  # bytes of each of two texts whose difference is shown

_DONE = {"set": "Stored.", "update": "Updated.", "ttl": "The time to live was changed."}


@dataclass(frozen=True, slots=True)
class _Event:
    """A change, as the page shows it."""

    revision: str
    type: str
    reason: str | None
    time: float
    difference: Difference


class Values:
    """Show a value with its recent changes, and change it."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def routes(self) -> list[Route]:
        """Return the routes of the pages."""
        return [
            Route("/value", self._show),
            Route("/value.json", self._download),
            Route("/value/set", self._set, methods=["POST"]),
            Route("/value/update", self._update, methods=["POST"]),
            Route("/value/ttl", self._ttl, methods=["POST"]),
            Route("/value/delete", self._delete, methods=["POST"]),
        ]

    async def _show(self, request: Request) -> Response:
        query = request.query_params
        note = _DONE.get(query.get("done", ""), "")
        return await self._page(request, scope_name(query.get("scope", "")), query.get("key", ""), note=note)

    async def _download(self, request: Request) -> Response:
        query = request.query_params
        scope, key = scope_name(query.get("scope", "")), query.get("key", "")
        entry = await with_texts(self._console.state).entry(scope, key)
        if entry is None:
            raise HTTPException(404, f"Scope {scope!r} has no key {key!r}.")
        shown = self._shown(scope, key, entry.value)
        headers = {"content-disposition": "attachment; filename=value.json"}
        return Response(shown.text.encode(errors="replace"), media_type="application/json", headers=headers)

    async def _page(
        self, request: Request, scope: str, key: str, *, status: int = 200, note: str = "", problem: str = "",
        draft: str | None = None, operations: str = "", mine: str = "",
    ) -> Response:  # fmt: skip
        """Return the page. `draft`: what was entered and not stored; `mine`: the same with our line breaks, to compare."""
        state = self._console.state
        corrupt, entry, shown = "", None, None
        try:
            entry = await self._console.in_time(with_texts(state).entry(scope, key))
        except CorruptValue as error:
            corrupt = str(error)
        if entry is not None:
            shown = self._shown(scope, key, entry.value)
        events = await browsing.read_events(state, scope, key)
        is_editable = shown is not None and not shown.is_masked and len(shown.text) <= _LARGEST_EDITED
        return self._console.page(
            request,
            "value.html",
            code=status if entry is not None or corrupt or status != 200 else 404,
            scope=scope,
            key=key,
            entry=entry,
            corrupt=corrupt,
            size=None if entry is None else len(entry.value.encode(errors="replace")),
            shown=shown,
            root=None if shown is None else tree(shown.value),
            is_editable=is_editable,
            events=[self._event(scope, key, event) for event in events.rows],
            searched=events.searched,
            has_older=events.cursor is not None,
            note=note,
            problem=problem,
            draft=(shown.text if is_editable and shown is not None else "") if draft is None else draft,
            operations=operations,
            conflict=differences(shown.text, mine) if mine and is_editable and shown is not None else [],
        )

    def _shown(self, scope: str, key: str, text: str) -> Shown:
        return show(self._console.redaction, scope, key, text)

    def _event(self, scope: str, key: str, event: KeyEvent) -> _Event:
        difference = compare(self._console.redaction, scope, key, event.old, event.new, most=_LARGEST_COMPARED)
        return _Event(event.revision, event.type, event.reason, int(event.revision.partition("-")[0]) / 1000, difference)

    # -- changes ----------------------------------------------------------------------------------------------------

    async def _set(self, request: Request) -> Response:
        form = await self._console.access.read_form(request)
        scope, key, text = scope_name(form.get("scope", "")), form.get("key", ""), form.get("text", "").replace("\r\n", "\n")
        state, details = self._console.state, {"scope": scope, "key": key, "if_revision": form.get("revision")}
        try:
            entry = await with_texts(state).entry(scope, key)
            if entry is not None and self._shown(scope, key, entry.value).is_masked:
                raise HTTPException(403, "The value has masked members. Change it by operations. Nothing was changed.")
            await with_texts(state).set(scope, key, text, ttl=KEEP, if_revision=form.get("revision") or None)
        except RevisionConflict:
            audit(request, "set", "conflict", details)
            problem = "Somebody else has changed this value since you opened it. Nothing was stored."
            mine = to_json(parse(text, Number), indent=True)
            return await self._page(request, scope, key, status=409, problem=problem, draft=text, mine=mine)
        except StateUnavailable:
            raise
        except StateError as error:
            return await self._page(request, scope, key, status=400, problem=f"{error}. Nothing was stored.", draft=text)
        audit(request, "set", "done", details)
        return self._back(request, scope, key, "set")

    async def _update(self, request: Request) -> Response:
        form = await self._console.access.read_form(request)
        scope, key, text = scope_name(form.get("scope", "")), form.get("key", ""), form.get("operations", "")
        details = {"scope": scope, "key": key, "if_revision": form.get("revision")}
        try:
            operations = parse(text, exact)
            await self._console.state.update(scope, key, operations, if_revision=form.get("revision") or None)
        except RevisionConflict:
            audit(request, "update", "conflict", details)
            problem = "Somebody else has changed this value since you opened it. Nothing was changed."
            return await self._page(request, scope, key, status=409, problem=problem, operations=text)
        except StateUnavailable:
            raise
        except (StateError, ValueError) as error:
            return await self._page(request, scope, key, status=400, problem=f"{error}. Nothing was changed.", operations=text)
        audit(request, "update", "done", details)
        return self._back(request, scope, key, "update")

    async def _ttl(self, request: Request) -> Response:
        form = await self._console.access.read_form(request)
        scope, key, given = scope_name(form.get("scope", "")), form.get("key", ""), form.get("ttl", "").strip()
        try:
            ttl = None if given in ("", "never") else parse_duration(given)
            found = await self._console.state.expire(scope, key, ttl)
        except StateUnavailable:
            raise
        except (StateError, ValueError) as error:
            return await self._page(request, scope, key, status=400, problem=f"{error}. Nothing was changed.")
        audit(request, "expire", "done" if found else "no value", {"scope": scope, "key": key, "ttl": ttl})
        return self._back(request, scope, key, "ttl" if found else "")

    async def _delete(self, request: Request) -> Response:
        form = await self._console.access.read_form(request)
        scope, key = scope_name(form.get("scope", "")), form.get("key", "")
        details = {"scope": scope, "key": key, "if_revision": form.get("revision")}
        try:
            await with_texts(self._console.state).delete(scope, key, if_revision=form.get("revision") or None)
        except RevisionConflict:
            audit(request, "delete", "conflict", details)
            problem = "Somebody else has changed this value since you opened it. It was not deleted."
            return await self._page(request, scope, key, status=409, problem=problem)
        audit(request, "delete", "done", details)
        return RedirectResponse(link(request, "keys", scope=scope, deleted=key), 303)

    def _back(self, request: Request, scope: str, key: str, done: str) -> Response:
        return RedirectResponse(link(request, "value", scope=scope, key=key, done=done), 303)
