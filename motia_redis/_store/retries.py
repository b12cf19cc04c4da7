"""Repeating calls that Redis did not answer: until a deadline, with growing pauses, each attempt telling which it is."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from redis.exceptions import RedisError

from motia_redis._ids import generator
from motia_redis._scripts import error_codes
from motia_redis._transport import failures, refusals
from motia_redis._transport.failures import ErrorReply
from motia_redis.errors import StateUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from motia_redis._store.sessions import Session, Sessions

_T = TypeVar("_T")

#: Seconds, beyond the deadline, in which the events stay that a repetition looks for: attempts and replies under way, clocks.
RETRY_MARGIN = 10.0
_PAUSES = (0.02, 1.0)  # seconds: first and longest


@dataclass(frozen=True, slots=True)
class Attempt:
    """One of the attempts at a call, as the scripts take it."""

    number: int  #: 1 is the first
    began: int  #: when the first one began: the server's clock, Unix milliseconds; 0 = unknown
    elapsed: int  #: milliseconds since then


#: What nobody needs to know when it began.
FIRST = Attempt(1, 0, 0)


class Retries:
    """Repeats calls of one manager. `deadline`: seconds after which no new attempt is made; 0: there is only one."""

    def __init__(self, sessions: Sessions, deadline: float) -> None:
        self._sessions = sessions
        self.deadline = deadline

    async def run(self, subject: object, call: Callable[[Session, Attempt], Awaitable[_T]], *, is_mutation: bool = False) -> _T:
        """Return what `call` returns, which is called again after each error that may pass.

        The first connection is not tried again: a wrong URL is better told at once. Raises what the script refused as redis-py's
        ResponseError, and StateUnavailable for all else; `changes` makes that say whether the change may have been applied.
        """
        session = self._sessions.current() or await self._sessions.get()
        began = time.monotonic()
        try:
            return await call(session, FIRST)
        except (RedisError, OSError) as error:
            return await self._repeat(subject, call, began, session.clock.at(began), error, is_mutation=is_mutation)

    async def _repeat(
        self,
        subject: object,
        call: Callable[[Session, Attempt], Awaitable[_T]],
        began: float,
        server_began: int,
        failure: Exception,
        *,
        is_mutation: bool,
    ) -> _T:
        """Go on behind the failure of the first attempt."""
        number, pause, maybe_applied = 1, _PAUSES[0], False
        while True:
            if error_codes.is_script_error(failure):
                raise failure
            maybe_applied = maybe_applied or (is_mutation and failures.was_sent(failure))
            again = failures.was_sent(failure) or failures.is_disconnected(failure) or self._is_transient(failure)
            if failures.is_disconnected(failure):
                try:
                    await self._sessions.revive()
                except StateUnavailable as reason:
                    raise StateUnavailable(f"{subject}: {reason}", maybe_applied=maybe_applied) from failure
            wait = pause * generator.uniform(0.5, 1.0)
            if not again or time.monotonic() - began + wait > self.deadline:
                raise failures.to_unavailable(subject, self._sessions.url, failure, maybe_applied=maybe_applied) from failure
            await asyncio.sleep(wait)
            pause = min(pause * 2, _PAUSES[1])
            number += 1
            elapsed = int((time.monotonic() - began) * 1000)
            try:
                return await call(await self._sessions.get(), Attempt(number, server_began, elapsed))
            except (RedisError, OSError) as error:
                failure = error

    def _is_transient(self, error: Exception) -> bool:
        return isinstance(error, ErrorReply) and refusals.is_transient(error.code, fails_over=self._sessions.fails_over)
