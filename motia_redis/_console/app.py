"""The entry to the console; Starlette and Jinja are imported when an application is created, not with this module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from motia_redis.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.applications import Starlette
    from starlette.requests import Request

    from motia_redis._store.manager import StateManager

#: Members that are masked unless `redact` says otherwise: of any scope and key, at any depth.
DEFAULT_REDACTED = ("*/*password*", "*/*passwd*", "*/*secret*", "*/*token*", "*/*api[_-]key*", "*/*apikey*", "*/*credential*")


def create_console_app(
    state: StateManager,
    *,
    allow_changes: bool = False,
    token: str | None = None,
    allow: Callable[[Request], str | bool | Awaitable[str | bool]] | None = None,
    redact: Sequence[str] = DEFAULT_REDACTED,
) -> Starlette:
    """Return an ASGI application that shows a namespace to a browser, and changes it if it may.

    It can be mounted below any path of another ASGI application, as in `app.mount("/console", create_console_app(state))`. It has
    no lifespan of its own. It needs the extra `console`.

    Without `token` and `allow` it answers only clients on this machine that name it by a loopback address. Every change needs a
    form of the console itself, so that pages of other sites cannot make one, and writes a line to the logger
    `motia_redis.console`: who changed what, from where.

    Arguments:
        state: the manager of the namespace. The caller connects and closes it.
        allow_changes: whether values may be changed and dead letters retried or dropped. Otherwise the console only reads.
        token: what a person enters to come in, at least 16 characters; a program sends it as `Authorization: Bearer <token>`.
        allow: called with each request, may be async; a false result is a 403. A text names the person in the log. It is asked
            in place of the token.
        redact: patterns over `scope/key/member/member...`, upper and lower case alike; `*`, `?` and `[...]` as in file names,
            and `*` also takes `/`. What a pattern names is masked before it leaves the process, with all below it. The default
            masks members whose names look like secrets. An empty list masks nothing.

    Raises StateError without the extra, for a short token, and for both `token` and `allow`.
    """
    if isinstance(redact, str):
        raise TypeError(f"redact must be a list of patterns, not the text {redact!r}")
    if token is not None and allow is not None:
        raise StateError("create_console_app takes a token or allow, not both: allow is asked in place of the token")
    if token is not None and len(token) < _SHORTEST_TOKEN:
        raise StateError(f"the console's token must have at least {_SHORTEST_TOKEN} characters, not {len(token)}")
    try:
        from motia_redis._console.routes import build  # noqa: PLC0415 - see the module's docstring
    except ImportError:
        raise StateError("the console needs the packages jinja2 and sse-starlette: pip install 'motia-redis[console]'") from None
    return build(state, allow_changes=allow_changes, token=token, allow=allow, redact=redact)


_SHORTEST_TOKEN = 16
