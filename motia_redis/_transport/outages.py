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
        self._reported = 0.0

    def failed(self, reason: object) -> None:
        """Note that a call could not reach Redis, with the reason."""
        now = time.monotonic()
        if self._began is None:
            self._began = self._reported = now
            self._log.warning("Redis at %s is away, and %s: %s", self._at, self._effect, reason)
        elif now - self._reported >= INTERVAL:
            self._reported = now
            self._log.warning("Redis at %s has been away for %.0f s: %s", self._at, now - self._began, reason)

    def answered(self) -> None:
        """Note that a call was answered. Costs nothing while Redis is not away."""
        if self._began is not None:
            self._log.warning("Redis at %s is back after %.1f s", self._at, time.monotonic() - self._began)
            self._began = None


def report(log: logging.Logger, activity: str, error: Exception) -> None:
    """Log that something is tried again: a line that nobody needs while an `Outage` reports that Redis is away."""
    level = logging.DEBUG if failures.was_sent(error) or failures.is_disconnected(error) else logging.WARNING
    log.log(level, "%s: trying again: %s", activity, error)
