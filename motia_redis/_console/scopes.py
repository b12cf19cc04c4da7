"""Pages of scopes, and of the keys of one scope."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from starlette.routing import Route

from motia_redis._console.pages import one_line
from motia_redis._console.trees import Number, to_json
from motia_redis._store import browsing, expiry
from motia_redis._store.json_texts import TEXTS, parse
from motia_redis._store.stream_groups import scope_name
from motia_redis.errors import CorruptValue

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from motia_redis._console.pages import Console
    from motia_redis._store.browsing import KeyRow


class _Row(NamedTuple):
    """A key as the page shows it."""

    key: str
    size: int
    preview: str  #: "" for a value that is too long
    revision: str
    expires_at: float | None


class Scopes:
    """Show scopes and keys, page by page."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def routes(self) -> list[Route]:
        """Return the routes of the pages."""
        return [Route("/scopes", self._scopes), Route("/keys", self._keys)]

    async def _scopes(self, request: Request) -> Response:
        query = request.query_params
        prefix = query.get("prefix", "")
        reading = browsing.read_scopes(self._console.state, prefix, query.get("cursor", ""))
        page = await self._console.in_time(reading)
        return self._console.page(request, "scopes.html", page=page, prefix=prefix)

    async def _keys(self, request: Request) -> Response:
        state, query = self._console.state, request.query_params
        scope, prefix = scope_name(query.get("scope", "")), query.get("prefix", "")
        total = await self._console.in_time(state.count(scope))  # values whose time has run out expire first
        page = await browsing.read_keys(state, scope, prefix, query.get("cursor", ""))
        exact = await state.entry(scope, prefix) if prefix else None
        rows = [self._row(scope, row) for row in page.rows]
        return self._console.page(
            request, "keys.html", scope=scope, prefix=prefix, total=total, rows=rows, page=page, has_exact=exact is not None
        )

    def _row(self, scope: str, row: KeyRow) -> _Row:
        if row.text is None:
            return _Row(row.key, row.size, "", row.revision, None)
        try:
            text = TEXTS.decode(row.text, subject=row.key)
        except CorruptValue as error:
            return _Row(row.key, row.size, one_line(str(error)), row.revision, None)
        masked, is_masked = self._console.redaction.mask(scope, row.key, parse(text, Number))
        preview = one_line(to_json(masked) if is_masked else text)
        return _Row(row.key, row.size, preview, row.revision, expiry.expires_at(row.text))
