"""Report that Redis is away in few lines, however many calls fail."""

from __future__ import annotations

import logging
import time

from motia_redis._transport import failures
from motia_redis._transport.urls import redact

INTERVAL = 60.0  # seconds between two lines while Redis stays away


class Outage:
    """Log a line when Redis goes away, one a minute while it stays away, and one when it is back.

    Share one between all that use the same Redis for the same purpose.

    Arguments:
        url: the URL of the Redis; its secrets are not shown.
        log: where the lines go, at level WARNING.
        effect: what the outage means here, as the end of a sentence: "no event is read".
    """

    def __init__(self, url: str, log: logging.Logger, effect: str) -> None:
        self._at = redact(url)
        self._log = log
        self._effect = effect
        self._began: float | None = None
        self._failed = self._reported = 0.0
        self._refused = False

    @property
    def is_reported(self) -> bool:
        """Return whether Redis is away, and the log says so."""
        return self._began is not None

    def failed(self, reason: object, *, refused: bool = False) -> None:
        """Note that a call could not reach Redis, or was refused, with the reason."""
        now = time.monotonic()
        if now - self._failed > INTERVAL:
            self._began = None  # nobody has asked for so long that Redis may have been back meanwhile
        self._failed, self._refused = now, refused
        if self._began is None:
            self._began = self._reported = now
            what = "refuses calls" if refused else "is away"
            self._log.warning("Redis at %s %s, and %s: %s", self._at, what, self._effect, reason)
        elif now - self._reported >= INTERVAL:
            self._reported = now
            what = "has refused calls" if refused else "has been away"
            self._log.warning("Redis at %s %s for %.0f s: %s", self._at, what, now - self._began, reason)

    def answered(self) -> None:
        """Note that a call was answered. Costs nothing while Redis is not away."""
        if self._began is not None:
            what = "accepts calls again" if self._refused else "is back"
            self._log.warning("Redis at %s %s after %.1f s", self._at, what, time.monotonic() - self._began)
            self._began = None


def report(log: logging.Logger, activity: str, error: Exception) -> None:
    """Log that something is tried again: a line that nobody needs while an `Outage` reports that Redis is away."""
    level = logging.DEBUG if failures.was_sent(error) or failures.is_disconnected(error) else logging.WARNING
    log.log(level, "%s: trying again: %s", activity, error)
