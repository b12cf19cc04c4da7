"""What an error of redis-py says about a call: whether it was sent, whether the server is gone, and what to raise for it."""

from __future__ import annotations

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from motia_redis._transport import refusals
from motia_redis._transport.urls import redact
from motia_redis.errors import StateUnavailable

UNREACHABLE = (RedisConnectionError, RedisTimeoutError, OSError)


def is_disconnected(error: Exception) -> bool:
    """Tell whether the error may mean that the server is not there any more (and not that it is slow, or refuses)."""
    return (
        isinstance(error, UNREACHABLE)
        and not isinstance(error, RedisTimeoutError | TimeoutError)
        and refusals.refusal(error) is None
    )


def was_sent(error: Exception) -> bool:
    """Tell whether the call that ended so may have reached Redis and been run."""
    return (
        isinstance(error, UNREACHABLE)
        and refusals.refusal(error) is None
        and "connecting to" not in refusals.clean_message(error)
    )


def to_unavailable(subject: object, url: str, error: Exception, *, maybe_applied: bool = False) -> StateUnavailable:
    """Return the error for a Redis that cannot be reached or refuses the call; `maybe_applied`: it was a change that was sent."""
    at = f"{subject}: Redis at {redact(url)}"
    applied = "; the change may have been applied" if maybe_applied else ""
    if (reason := refusals.refusal(error)) is not None:
        return StateUnavailable(f"{at} {reason}{applied}", maybe_applied=maybe_applied)
    text = refusals.clean_message(error)
    if isinstance(error, UNREACHABLE):
        if isinstance(error, RedisTimeoutError | TimeoutError):
            text = f"no answer in time ({text}): is it a Redis, and not held up?"
        message = f"{subject}: cannot reach Redis at {redact(url)}: {text}{applied}"
        return StateUnavailable(message, maybe_applied=maybe_applied)
    return StateUnavailable(f"{at} refused the call: {text}{applied}", maybe_applied=maybe_applied)
