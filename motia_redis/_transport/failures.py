"""Classify errors of redis-py: whether the call was sent, whether the server has ended, and what to raise."""

from __future__ import annotations

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from motia_redis._transport import refusals
from motia_redis._transport.urls import redact
from motia_redis.errors import StateUnavailable

UNREACHABLE = (RedisConnectionError, RedisTimeoutError, OSError)


def is_disconnected(error: Exception) -> bool:
    """Return whether the error may mean that the server has ended. A time-out or an error reply does not."""
    return (
        isinstance(error, UNREACHABLE)
        and not isinstance(error, RedisTimeoutError | TimeoutError)
        and refusals.refusal(error) is None
    )


def was_sent(error: Exception) -> bool:
    """Return whether Redis may have run the call that failed with this error."""
    return (
        isinstance(error, UNREACHABLE)
        and refusals.refusal(error) is None
        and "connecting to" not in refusals.clean_message(error)
    )


def to_unavailable(subject: object, url: str, error: Exception, *, maybe_applied: bool = False) -> StateUnavailable:
    """Return the error to raise when Redis cannot be reached or refuses a call.

    `maybe_applied`: the call was a mutation, and Redis may have applied it.
    """
    at = f"{subject}: Redis at {redact(url)}"
    applied = "; the change may have been applied" if maybe_applied else ""
    if (reason := refusals.refusal(error)) is not None:
        return StateUnavailable(f"{at} {reason}{applied}", maybe_applied=maybe_applied)
    text = refusals.clean_message(error)
    if isinstance(error, UNREACHABLE):
        if isinstance(error, RedisTimeoutError | TimeoutError):
            text = f"no reply in time ({text}): check that a Redis listens there and is not blocked"
        message = f"{subject}: cannot reach Redis at {redact(url)}: {text}{applied}"
        return StateUnavailable(message, maybe_applied=maybe_applied)
    return StateUnavailable(f"{at} refused the call: {text}{applied}", maybe_applied=maybe_applied)
