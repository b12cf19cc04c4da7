"""How calls of the scripts look on their way to the server: a function where it has functions, else a script by its hash."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from motia_redis._scripts.loader import load

if TYPE_CHECKING:
    import redis

#: The commands that call a script; the last one sends its text, to a server that does not know it.
CALLS: Final = ("FCALL", "EVALSHA", "EVAL")


def targets(name: str) -> frozenset[bytes]:
    """Return what may name the script `name` in a command: the name of its function, its hash."""
    script = load(name)
    assert script.function is not None
    return frozenset({script.function.encode(), script.sha.encode()})


def count_calls(raw: redis.Redis) -> int:
    """Return how many calls of scripts without their text the server has counted."""
    stats: Any = raw.info("commandstats")
    return sum(stats.get(f"cmdstat_{command.lower()}", {"calls": 0})["calls"] for command in CALLS[:2])
