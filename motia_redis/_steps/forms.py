"""Forms of configurations that Motia's users bring: names in camel case, triggers as dicts, keys of version 0.x, which fail."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from motia_redis._steps.models import snake_case
from motia_redis._steps.stream_triggers import stream
from motia_redis._steps.triggers import cron, http, queue, state
from motia_redis.errors import StepError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from motia_redis._steps.triggers import Trigger

_MAKERS: dict[str, Callable[..., Trigger]] = {
    "http": http,
    "api": http,
    "queue": queue,
    "cron": cron,
    "state": state,
    "stream": stream,
}
# What version 0.x of Motia wrote, and what to write now.
_OLD_KEYS = {
    "emits": "'enqueues': [...]",
    "subscribes": "'triggers': [queue(topic)] for each topic",
    "type": "'triggers': [http(method, path)], [queue(topic)] or [cron(expression)]",
    "method": "'triggers': [http(method, path)]",
    "path": "'triggers': [http(method, path)]",
    "cron": "'triggers': [cron(expression)]",
    "input": "'triggers': [queue(topic, input=...)]",
    "virtual_emits": "'virtual_enqueues': [...]",
}


def snake_case_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with the names of its keys as Python writes them."""
    return {snake_case(key) if isinstance(key, str) else key: value for key, value in config.items()}


def old_key_problem(config: Mapping[str, Any]) -> str | None:
    """Return what to write instead of a key of version 0.x, or None."""
    for key, instead in _OLD_KEYS.items():
        if key in config:
            return f"{key!r} is a key of Motia 0.x; write {instead}"
    return None


def trigger_of(trigger: Mapping[str, Any]) -> Trigger:
    """Return the trigger that a dict such as `{"type": "queue", "topic": "mail"}` describes. Raises StepError."""
    given = snake_case_keys(trigger)
    kind = given.pop("type", None)
    if kind == "event":
        raise StepError("a trigger of the type 'event' is of Motia 0.x; write 'queue'")
    if not isinstance(kind, str) or kind not in _MAKERS:
        raise StepError(f"the 'type' of a trigger must be one of {', '.join(map(repr, _MAKERS))}, not {kind!r:.80}")
    make = _MAKERS[kind]
    if kind == "cron" and "cron" in given:
        raise StepError("'cron' in a cron trigger is of Motia 0.x; write 'expression'")
    try:
        inspect.signature(make).bind(**given)
    except TypeError as error:
        accepted = ", ".join(inspect.signature(make).parameters)
        raise StepError(f"a {kind} trigger as a dict: {error}; accepted are {accepted}") from None
    return make(**given)
