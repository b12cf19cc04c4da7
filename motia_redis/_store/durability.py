"""Durability levels: how safe a change must be before its call returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from motia_redis._transport.failures import ErrorReply
from motia_redis.errors import NotDurable, StateError

if TYPE_CHECKING:
    from motia_redis._store import types
    from motia_redis._transport.router import Router

MEMORY: Final = "memory"
REPLICATED: Final = "replicated"
FSYNCED: Final = "fsynced"


@dataclass(frozen=True, slots=True)
class Durability:
    """Hold a level, the number of replicas for `replicated`, and the seconds to wait for `replicated` or `fsynced`."""

    level: types.Durability = MEMORY
    replicas: int = 1
    timeout: float = 1.0

    def __post_init__(self) -> None:
        if self.level not in (MEMORY, REPLICATED, FSYNCED):
            raise StateError(f"durability must be 'memory', 'replicated' or 'fsynced', not {self.level!r:.80}")
        if self.replicas < 1 or not 0 < self.timeout <= 60:
            raise StateError(f"replicas must be at least 1, and durability_timeout more than 0 and at most 60 seconds: {self}")

    @property
    def wait_commands(self) -> list[tuple[Any, ...]]:
        """The commands that wait for durability. Send them after a change, over the same connection."""
        milliseconds = max(1, int(self.timeout * 1000))  # 0 would wait forever
        if self.level == REPLICATED:
            return [("WAIT", self.replicas, milliseconds)]
        if self.level == FSYNCED:
            return [("WAITAOF", 1, 0, milliseconds)]
        return []

    def check(self, subject: object, reply: Any) -> None:
        """Raise NotDurable unless the reply to the wait command shows that the change is as safe as required."""
        stands = f"{subject}: the change stands on the primary, but"
        if isinstance(reply, Exception):
            raise NotDurable(f"{stands} it cannot be made {self.level}: {_refusal_reason(reply)}") from reply
        if self.level == REPLICATED and reply < self.replicas:
            raise NotDurable(f"{stands} {reply} of {self.replicas} replicas had it after {self.timeout:g} s")
        if self.level == FSYNCED and not reply[0]:
            raise NotDurable(f"{stands} it was not on the primary's disk after {self.timeout:g} s")

    async def probe(self, subject: str, router: Router, key: str) -> None:
        """Raise StateError if this Redis does not support the level. Other errors of Redis are redis-py's."""
        if self.level == FSYNCED:
            try:
                await router.execute(key, *self.wait_commands[0])
            except ErrorReply as error:
                raise StateError(f"{subject}: {_refusal_reason(error)}") from None


def _refusal_reason(error: Exception) -> str:
    """Describe why Redis rejects the wait command."""
    if "unknown command" in str(error):
        return "'fsynced' needs Redis 7.2 or newer"
    if "appendonly" in str(error):
        return "'fsynced' needs appendonly yes"
    return str(error)
