"""Make pages: templates, and what all of them show."""

from __future__ import annotations

import asyncio
import math
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode

import jinja2
from starlette.responses import HTMLResponse

from motia_redis._console.access import FORM_FIELD
from motia_redis._console.addresses import root_of
from motia_redis._steps.faults import escaped
from motia_redis._transport import urls
from motia_redis._version import __version__
from motia_redis.errors import StateUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from starlette.requests import Request
    from starlette.responses import Response

    from motia_redis._console.access import Access
    from motia_redis._console.redacting import Redaction
    from motia_redis._store.manager import StateManager

_T = TypeVar("_T")

STATIC = Path(__file__).parent / "static"
_TEMPLATES = Path(__file__).parent / "templates"
NOTHING = "\N{EN DASH}"  #: in place of a number that is not known
_PATIENCE = 4.0  # seconds
_UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


class Console:
    """Hold what all pages of one console share."""

    def __init__(self, state: StateManager, access: Access, redaction: Redaction) -> None:
        self.state = state
        self.access = access
        self.redaction = redaction
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_TEMPLATES),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "age": age, "bytes": size, "count": count, "moment": moment, "plain": escaped, "one_line": one_line,
        }  # fmt: skip
        self._environment.globals |= {
            "version": __version__,
            "namespace": state.namespace,
            "redis": urls.redact(state.url),
            "has_login": access.has_login,
            "allow_changes": access.allow_changes,
            "form_field": FORM_FIELD,
        }

    async def in_time(self, reading: Awaitable[_T]) -> _T:
        """Return what is read from Redis for a page. A person does not wait as long as a program. Raises StateUnavailable."""
        try:
            async with asyncio.timeout(_PATIENCE):
                return await reading
        except TimeoutError:
            raise StateUnavailable(f"Redis at {urls.redact(self.state.url)} did not answer within {_PATIENCE:g} s") from None

    def page(self, request: Request, template: str, *, code: int = 200, **context: Any) -> Response:
        """Return a page, or a part of one if the template is one."""
        path = request.url.path.removeprefix(request.scope.get("root_path", ""))
        here, form_token = path.strip("/").partition("/")[0], self.access.form_token(request)
        is_inside = getattr(request.state, "person", None) is not None  # others learn neither namespace nor Redis
        shown = {"here": here, "form_token": form_token, "is_inside": is_inside, **context}
        response = HTMLResponse(self.render(request, template, **shown), code)
        self.access.give_cookie(request, response)
        return response

    def render(self, request: Request, template: str, **context: Any) -> bytes:
        """Return the text of a template. What UTF-8 cannot encode is replaced."""
        text = self._environment.get_template(template).render(link=partial(link, request), **context)
        return text.encode(errors="replace")


def link(request: Request, path: str, **query: Any) -> str:
    """Return the address of a page of this console, below whatever path it is mounted; empty arguments are left out."""
    chosen = {name: value for name, value in query.items() if value not in (None, "")}
    return f"{root_of(request)}/{path}" + (f"?{urlencode(chosen, errors='surrogateescape')}" if chosen else "")


def age(seconds: float | None) -> str:
    """Return a duration for a person, in its two largest units: `2 h 5 min`."""
    if seconds is None:
        return NOTHING
    if seconds < 10:
        return f"{seconds:.1f} s"
    left, parts = math.floor(seconds), []
    for unit, length in _UNITS:
        if left >= length:
            parts.append(f"{left // length} {unit}")
            left %= length
    return " ".join(parts[:2])


def size(number: float | None) -> str:
    """Return a number of bytes for a person: `1.2 MB`."""
    if number is None:
        return NOTHING
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError  # the last unit always returns


def count(number: float | None) -> str:
    """Return a number with separators of thousands."""
    return NOTHING if number is None else f"{number:,.0f}"


def moment(unix: float | None) -> str:
    """Return a Unix time in seconds as a date and a time in UTC."""
    return NOTHING if unix is None else time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(unix)) + " UTC"


def one_line(text: str, most: int = 120) -> str:
    """Return a text on one line, with an ellipsis if it is longer."""
    line = escaped(" ".join(text.split()))
    return line if len(line) <= most else line[: most - 1] + "…"
