"""Repeat calls that Redis did not answer, until a deadline and with growing pauses. Each attempt carries its number."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from redis.exceptions import RedisError

from motia_redis import _metrics, _tracing
from motia_redis._scripts import error_codes
from motia_redis._transport import failures, refusals
from motia_redis._transport.backoff import Backoff
from motia_redis._transport.failures import UNREACHABLE, ErrorReply, NotSent
from motia_redis.errors import StateUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from motia_redis._store.sessions import Session, Sessions

_T = TypeVar("_T")

_PAUSES = (0.02, 1.0)  # seconds: first and longest
_PERSISTENCE = 0.5  # seconds before a call whose deadline has passed is made again, where nobody waits for it


@dataclass(frozen=True, slots=True)
class Attempt:
    """Identify one attempt at a call to the scripts."""

    number: int  #: 1 is the first
    began: int  #: start of the first attempt by the server's clock, in Unix milliseconds; 0: unknown
    elapsed: int  #: milliseconds since then


#: The first attempt. Scripts do not need its start.
FIRST = Attempt(1, 0, 0)


class Retries:
    """Repeat calls of one manager. No attempt starts later than `deadline` seconds after the first; 0: one attempt only.

    Without a deadline the one that the namespace has stored counts.
    """

    def __init__(self, sessions: Sessions, deadline: float | None) -> None:
        self._sessions = sessions
        self._deadline = deadline

    @property
    def place(self) -> tuple[str, str]:
        """Return the URL and the namespace of the calls."""
        return self._sessions.url, self._sessions.namespace

    async def run(
        self,
        subject: object,
        call: Callable[[Session, Attempt], Awaitable[_T]],
        *,
        operation: str = "other",
        is_mutation: bool = False,
        changes: int = 0,
    ) -> _T:
        """Return the result of `call`. Repeat it after each transient error until the deadline.

        The first connection attempt is not repeated, so that a wrong URL fails fast. Raises redis-py's ResponseError for an error
        of the script, and StateUnavailable for all other errors. With `is_mutation` the latter says whether the change may have
        been applied. Metrics count the call as one of `operation`, with so many `changes`.
        """
        session = self._sessions.current() or await self._sessions.get()
        if _tracing.spans is not None and _tracing.spans.wants(operation):
            with _tracing.spans.call(subject, operation, session.router) as span:
                return span.ended(await self.run(subject, call, operation=operation, is_mutation=is_mutation, changes=changes))
        began = time.monotonic()
        try:
            if session.losses != session.router.losses:
                await self._check_layout(session)
            result = await call(session, FIRST)
        except (RedisError, OSError) as error:
            result = await self.repeat(subject, call, began, session, error, operation=operation, is_mutation=is_mutation)
        if _metrics.active is not None:
            _metrics.active.add_call(operation, began, changes)
        return result

    async def persist(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Return the result of `call`, which calls `run`. Repeat it as long as Redis is away: for work that nobody waits for."""
        while True:
            try:
                return await call()
            except StateUnavailable:
                await asyncio.sleep(_PERSISTENCE)

    async def check_layout(self, subject: object) -> None:
        """Look at the layout of the namespace again, because Redis may have lost its data; see `Sessions.check_layout`."""

        async def look(session: Session, _: Attempt) -> None:
            await self._sessions.check_layout(session)

        await self.run(subject, look, operation="check_layout")

    async def repeat(
        self,
        subject: object,
        call: Callable[[Session, Attempt], Awaitable[_T]],
        began: float,
        session: Session,
        failure: Exception,
        *,
        operation: str,
        is_mutation: bool,
    ) -> _T:
        """Return the result of a call whose first attempt failed, at a moment of `time.monotonic`: repeat it as `run` does."""
        try:
            return await self._repeat(subject, call, began, session, failure, operation=operation, is_mutation=is_mutation)
        except StateUnavailable:
            if _metrics.active is not None:
                _metrics.active.unavailable[operation] += 1
            raise

    async def _repeat(
        self,
        subject: object,
        call: Callable[[Session, Attempt], Awaitable[_T]],
        began: float,
        session: Session,
        failure: Exception,
        *,
        operation: str,
        is_mutation: bool,
    ) -> _T:
        number, maybe_applied, backoff = 1, False, Backoff(*_PAUSES)
        server_began = session.clock.at(began)
        deadline = session.settings.deadline if self._deadline is None else self._deadline
        while True:
            if error_codes.is_script_error(failure):
                raise failure
            maybe_applied = maybe_applied or (is_mutation and failures.was_sent(failure))
            is_retryable = failures.was_sent(failure) or failures.is_disconnected(failure) or self._is_transient(failure)
            if failures.is_disconnected(failure):
                try:
                    await self._sessions.revive()
                except StateUnavailable as reason:
                    raise StateUnavailable(f"{subject}: {reason}", maybe_applied=maybe_applied) from failure
            wait = backoff.next()
            if not is_retryable or time.monotonic() - began + wait > deadline:
                raise failures.to_unavailable(subject, self._sessions.url, failure, maybe_applied=maybe_applied) from failure
            await asyncio.sleep(wait)
            if _metrics.active is not None:
                _metrics.active.retries[operation] += 1
            number += 1
            elapsed = int((time.monotonic() - began) * 1000)
            try:
                session = await self._sessions.get()
                if session.losses != session.router.losses:
                    await self._check_layout(session)
                return await call(session, Attempt(number, server_began, elapsed))
            except (RedisError, OSError) as error:
                failure = error

    async def _check_layout(self, session: Session) -> None:
        """Check the layout after a connection was lost: the server that answers now may have lost its data."""
        try:
            await self._sessions.check_layout(session)
        except UNREACHABLE as error:
            raise NotSent(str(error)) from error  # no reply to the check tells nothing about the call

    def _is_transient(self, error: Exception) -> bool:
        return isinstance(error, ErrorReply) and refusals.is_transient(error.code, fails_over=self._sessions.fails_over)
