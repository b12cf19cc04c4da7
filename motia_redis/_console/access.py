"""Who may see the console, and who may change something by it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import inspect
import logging
import secrets
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse

from motia_redis._console.addresses import is_loopback, root_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.requests import Request
    from starlette.responses import Response

_audit = logging.getLogger("motia_redis.console")

SESSION_COOKIE = "motia_console"
FORM_COOKIE = "motia_console_form"
FORM_FIELD = "form_token"
_FORWARDED = {"forwarded", "x-forwarded-for", "x-real-ip"}  # a proxy on this machine passes on who is elsewhere
_FAILURE_PAUSE = 0.5  # seconds that a wrong token waits for its answer
_LARGEST_FORM = 8 * 1024 * 1024  # bytes


class Access:
    """Decide on each request. `token` and `allow` are those of `create_console_app`."""

    def __init__(
        self,
        *,
        token: str | None,
        allow: Callable[[Request], str | bool | Awaitable[str | bool]] | None,
        allow_changes: bool,
    ) -> None:
        self.allow_changes = allow_changes
        self.has_login = token is not None
        self._token = token
        self._allow = allow
        # Several console processes that have the same token must accept each other's forms and cookies.
        seed = secrets.token_bytes(32) if token is None else hashlib.sha256(b"motia-redis console " + token.encode()).digest()
        self._session = hmac.new(seed, b"session", "sha256").hexdigest()
        self._form_key = hmac.new(seed, b"form", "sha256").digest()

    async def check(self, request: Request) -> Response | None:
        """Let a request pass and note its person, or return the answer to it. Raises HTTPException."""
        request.state.person = person = await self._person(request)
        if person is not None:
            return None
        if self._token is not None and request.method == "GET":
            return RedirectResponse(f"{root_of(request)}/login", 303)
        if self._token is not None:
            raise HTTPException(403, "Your session has ended. Load the page again and enter the token.")
        if self._allow is not None:
            raise HTTPException(403, "The application does not let you see its console.")
        raise HTTPException(
            403,
            "This console answers clients on its own machine only, at a loopback address such as http://127.0.0.1. "
            "Others need a token (--token-file) or the application's own check (allow=...).",
        )

    async def _person(self, request: Request) -> str | None:
        if self._allow is not None:
            answer = self._allow(request)
            allowed = await answer if inspect.isawaitable(answer) else answer
            return (allowed if isinstance(allowed, str) else "allowed") if allowed else None
        if self._token is not None:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() == "bearer" and hmac.compare_digest(given.encode(), self._token.encode()):
                return "token"
            session = request.cookies.get(SESSION_COOKIE, "")
            return "token" if hmac.compare_digest(session.encode(), self._session.encode()) else None
        host = request.url.hostname
        is_local = (request.client is None or is_loopback(request.client.host)) and _FORWARDED.isdisjoint(request.headers)
        # The name is checked, too: a page of another site may have its name resolved to this machine.
        return "local" if is_local and host is not None and is_loopback(host) else None

    async def log_in(self, request: Request, given: str) -> Response | None:
        """Return the answer to the right token, or None for a wrong one, after a pause."""
        if self._token is None or not hmac.compare_digest(given.encode(), self._token.encode()):
            _audit.warning("login with a wrong token from %s", _client(request))
            await asyncio.sleep(_FAILURE_PAUSE)
            return None
        response = RedirectResponse(f"{root_of(request)}/", 303)
        response.set_cookie(
            SESSION_COOKIE,
            self._session,
            path=root_of(request) or "/",
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        _audit.info("login from %s", _client(request))
        return response

    # -- forms ------------------------------------------------------------------------------------------------------

    def form_token(self, request: Request) -> str:
        """Return what a form of this browser must send back. `give_cookie` gives the cookie that belongs to it."""
        cookie = request.cookies.get(FORM_COOKIE) or getattr(request.state, "form_cookie", "")
        if not cookie:
            request.state.form_cookie = cookie = secrets.token_urlsafe(24)
        return self._sign(cookie)

    def give_cookie(self, request: Request, response: Response) -> None:
        """Give a browser the cookie of its forms, if it has none."""
        cookie = getattr(request.state, "form_cookie", "")
        if cookie:
            response.set_cookie(
                FORM_COOKIE,
                cookie,
                path=root_of(request) or "/",
                httponly=True,
                samesite="strict",
                secure=request.url.scheme == "https",
            )

    async def read_form(self, request: Request, *, changes: bool = True) -> Mapping[str, str]:
        """Return the fields of a form that a page of this console sent. Raises HTTPException for any other."""
        if changes and not self.allow_changes:
            raise HTTPException(403, "This console only reads. Start it with --allow-changes to change something.")
        site = request.headers.get("sec-fetch-site", "same-origin")
        origin = request.headers.get("origin")
        if site != "same-origin" or (origin not in (None, "null") and origin.partition("://")[2] != request.headers.get("host")):
            raise HTTPException(403, "The form was sent by a page of another site. Nothing was changed.")
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _LARGEST_FORM:
                raise HTTPException(413, f"The form is larger than {_LARGEST_FORM} bytes. Nothing was changed.")
        try:
            fields = {name: values[-1] for name, values in parse_qs(body.decode(), keep_blank_values=True).items()}
        except (UnicodeDecodeError, ValueError):
            raise HTTPException(400, "The form cannot be read. Nothing was changed.") from None
        cookie = request.cookies.get(FORM_COOKIE, "")
        if not cookie or not hmac.compare_digest(fields.pop(FORM_FIELD, "").encode(), self._sign(cookie).encode()):
            raise HTTPException(403, "The form is too old, or not of this console. Load the page again. Nothing was changed.")
        return fields

    def _sign(self, cookie: str) -> str:
        return hmac.new(self._form_key, cookie.encode(), "sha256").hexdigest()


def audit(request: Request, action: str, outcome: str, details: Mapping[str, Any]) -> None:
    """Write a line about a change, or an attempt at one: who, from where, what, and what came of it."""
    told = " ".join(f"{name}={value!r}" for name, value in details.items())
    _audit.info("%s by %s from %s: %s %s", action, request.state.person, _client(request), outcome, told)


def _client(request: Request) -> str:
    return "an unknown address" if request.client is None else request.client.host
