"""How safe a change has to be before its call returns."""

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
    """A level, the replicas that must have a change for `replicated`, and the seconds to wait for either."""

    level: types.Durability = MEMORY
    replicas: int = 1
    timeout: float = 1.0

    def __post_init__(self) -> None:
        if self.level not in (MEMORY, REPLICATED, FSYNCED):
            raise StateError(f"durability is 'memory', 'replicated' or 'fsynced', not {self.level!r:.80}")
        if self.replicas < 1 or not 0 < self.timeout <= 60:
            raise StateError(f"replicas count from 1, durability_timeout lies between 0 and 60 seconds: {self}")

    @property
    def wait_commands(self) -> list[tuple[Any, ...]]:
        """What to send behind a change, over the same connection."""
        milliseconds = max(1, int(self.timeout * 1000))  # 0 would wait for ever
        if self.level == REPLICATED:
            return [("WAIT", self.replicas, milliseconds)]
        if self.level == FSYNCED:
            return [("WAITAOF", 1, 0, milliseconds)]
        return []

    def check(self, subject: object, reply: Any) -> None:
        """Raise NotDurable unless the reply to what `commands` sent says that the change is safe."""
        stands = f"{subject}: the change stands on the primary, but"
        if isinstance(reply, Exception):
            raise NotDurable(f"{stands} it cannot be made {self.level}: {_refusal_reason(reply)}") from reply
        if self.level == REPLICATED and reply < self.replicas:
            raise NotDurable(f"{stands} {reply} of {self.replicas} replicas had it after {self.timeout:g} s")
        if self.level == FSYNCED and not reply[0]:
            raise NotDurable(f"{stands} it was not on the primary's disk after {self.timeout:g} s")

    async def probe(self, subject: str, router: Router, key: str) -> None:
        """Raise StateError when this Redis can never make a change as safe as asked; errors of Redis are redis-py's."""
        if self.level == FSYNCED:
            try:
                await router.execute(key, *self.wait_commands[0])
            except ErrorReply as error:
                raise StateError(f"{subject}: {_refusal_reason(error)}") from None


def _refusal_reason(error: Exception) -> str:
    """Say why Redis refuses WAITAOF."""
    if "unknown command" in str(error):
        return "'fsynced' needs Redis 7.2 or newer"
    if "appendonly" in str(error):
        return "'fsynced' needs appendonly yes"
    return str(error)
