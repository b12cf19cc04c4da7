"""How often a failed attempt at an event is made again, and when: of a step, and of a queue trigger with a configuration."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from motia_redis._steps.models import snake_case


def is_count(value: object) -> bool:
    """Return whether a value is an integer of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def is_seconds(value: object) -> bool:
    """Return whether a value is a finite number over 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0 and math.isfinite(value)


def _is_count_from_0(value: object) -> bool:
    return value == 0 or is_count(value)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Say how many attempts are made at an event, how long the pauses between them are, and how long one attempt may take."""

    max_attempts: int
    backoff: float  #: seconds before the second attempt, doubled with each further one
    max_backoff: float  #: the longest of these pauses
    timeout: float | None  #: seconds that an attempt may take; None: no limit

    def pause(self, attempt: int) -> float:
        """Return the seconds to wait after failed attempt number `attempt` (the first is 1)."""
        # The exponent is capped because a float has no room for 2 ** 1024; by then the longest pause has long been reached.
        return float(min(self.backoff * 2.0 ** min(attempt - 1, 500), self.max_backoff))


_NO_DELAY = "0: send a message that waits with enqueue(..., delay=)"
# What each key of a queue's configuration accepts: the test and its wording.
_KEYS: dict[str, tuple[Callable[[object], bool], str]] = {
    "type": (lambda value: value in ("standard", "fifo"), "'standard' or 'fifo'"),
    "max_retries": (_is_count_from_0, "an integer of at least 0"),
    "visibility_timeout": (is_seconds, "a number of seconds over 0"),
    "delay_seconds": (lambda value: value == 0 and not isinstance(value, bool), _NO_DELAY),
    "backoff_type": (lambda value: value in ("fixed", "exponential"), "'fixed' or 'exponential'"),
    "concurrency": (is_count, "an integer of at least 1"),  # of the step
    "backoff_delay_ms": (is_count, "a number of milliseconds of at least 1"),
}


def config_problem(config: object) -> str | None:
    """Return what is wrong with the configuration of a queue trigger, worded as a sentence, or None."""
    if not isinstance(config, Mapping):
        return f"the config of a queue trigger must be a dict such as {{'maxRetries': 3}}, not {config!r:.80}"
    for name, value in config.items():
        key = snake_case(str(name))
        if key not in _KEYS:
            return f"the config of a queue trigger has no {name!r:.80}; accepted are {', '.join(_KEYS)}, or these in camel case"
        accepts, wording = _KEYS[key]
        if value is not None and not accepts(value):
            return f"{name!r} in the config of a queue trigger must be {wording}, not {value!r:.80}"
    return None


def with_config(policy: RetryPolicy, config: Mapping[str, Any], *, can_time_out: bool) -> RetryPolicy:
    """Return the policy of a queue trigger: that of its step, but for what its configuration says.

    `max_retries` counts what follows the first attempt. `can_time_out`: the handler is async; a thread cannot be stopped.
    """
    given = {snake_case(name): value for name, value in config.items() if value is not None}
    if "max_retries" in given:
        policy = replace(policy, max_attempts=given["max_retries"] + 1)
    if "visibility_timeout" in given and can_time_out:
        policy = replace(policy, timeout=float(given["visibility_timeout"]))
    if "backoff_delay_ms" in given:
        backoff = given["backoff_delay_ms"] / 1000
        policy = replace(policy, backoff=backoff, max_backoff=max(policy.max_backoff, backoff))
    if given.get("backoff_type") == "fixed":
        policy = replace(policy, max_backoff=policy.backoff)
    return policy
