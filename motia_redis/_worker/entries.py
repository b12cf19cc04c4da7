"""Stream entries on their way through this process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from motia_redis._tracing import new_trace_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from motia_redis._steps.context import FlowContext


@dataclass(eq=False, slots=True)
class StreamEntry:
    """One entry of a stream as Redis delivered it."""

    stream: bytes
    id: str
    fields: Mapping[bytes, bytes]

    @property
    def order_key(self) -> tuple[bytes, bytes]:
        """Return what entries of one stream share that run in order: scope and key, or the key of a topic's messages."""
        fields = self.fields
        return fields.get(b"scope", b""), fields.get(b"key") or self.id.encode()

    @property
    def revision(self) -> str:
        """Return the revision of the change: the entry's own id, unless the entry is the retry of a dead letter."""
        return self.fields.get(b"revision", b"").decode() or self.id

    @property
    def trace_id(self) -> str:
        """Return the trace id of the work that wrote the entry; a new one if it had none."""
        return self.fields.get(b"trace", b"").decode() or new_trace_id()


@dataclass(eq=False, slots=True)
class PreparedCall:
    """The arguments for a handler whose trigger has matched."""

    input: Any
    ctx: FlowContext


def order(entry_id: str) -> tuple[int, int]:
    """Return an entry id in a form that compares as Redis orders ids."""
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)
