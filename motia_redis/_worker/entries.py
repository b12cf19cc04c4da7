"""Stream entries, and what is known of them, on their way through this process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from motia_redis import _tracing
from motia_redis._steps import events
from motia_redis._steps.wants import CRON
from motia_redis._store.effects import event_id
from motia_redis._tracing import SpanTrace, has_parent, new_trace_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from motia_redis._steps.context import FlowContext


@dataclass(eq=False, slots=True)
class StreamEntry:
    """One entry of a stream as Redis delivered it."""

    stream: bytes
    id: str
    fields: Mapping[bytes, bytes]
    identity: str = ""  #: of the step that handles the entry

    @property
    def event_id(self) -> bytes:
        """Return what names the event for the step: the same for all attempts, also after a retry as a dead letter."""
        return event_id(self.identity, self.stream, self.revision)

    @property
    def order_key(self) -> tuple[bytes, bytes]:
        """Return what entries of one stream share that run in order: scope and key, or the key of a topic's messages.

        All times of a step's cron triggers run in order.
        """
        fields = self.fields
        if fields.get(b"type") == CRON:
            return b"", b""
        return fields.get(b"scope", b""), fields.get(b"key") or self.id.encode()

    @property
    def revision(self) -> str:
        """Return the revision of the change: the entry's own id, unless the entry is the retry of a dead letter."""
        revision = self.fields.get(b"revision")
        return revision.decode() if revision else self.id

    @property
    def trace(self) -> str:
        """Return the trace of the work that wrote the entry; a new one if it had none."""
        written = self.fields.get(b"trace")
        carried = written.decode(errors="replace") if written else ""
        if _tracing.spans is not None:
            carried = SpanTrace(carried) if has_parent(carried) else _tracing.spans.receive(carried, self.facts)
        return carried or new_trace_id()

    @property
    def is_traced(self) -> bool:
        """Return whether the entry was written by work that has a trace."""
        return bool(self.fields.get(b"trace"))

    @property
    def facts(self) -> dict[str, str]:
        """Return what names the entry's event in a log record: scope, stream, topic or schedule, and what is in that."""
        return events.facts(self.fields)


def is_retry_for(step: str, fields: Mapping[bytes, bytes]) -> bool:
    """Return whether an entry is the retry of a dead letter of a step."""
    only = fields.get(b"only")
    return only is not None and only == step.encode()


@dataclass(eq=False, slots=True)
class PreparedCall:
    """The arguments for a handler whose trigger has matched."""

    input: Any
    ctx: FlowContext | None  #: None if the handler takes none
    trace: str  #: see `Delivery.trace`


class Known(NamedTuple):
    """What Redis knows of an unfinished entry; see lib/lease.lua."""

    attempts: int = 0  #: made so far, in any process
    due: int = 0  #: no attempt begins earlier, Unix milliseconds by the server's clock
    owner: str = ""  #: the worker that runs the entry, and has given the lane away

    @classmethod
    def decode(cls, value: bytes) -> Known:
        """Return the content of a field. A field that no worker writes counts as an entry without attempts."""
        try:
            attempts, due, owner = value.decode().split(":", 2)
            return cls(int(attempts), int(due), owner)
        except ValueError:
            return cls()

    def encode(self) -> str:
        """Return the content of the field."""
        return f"{self.attempts}:{self.due}:{self.owner}"


NOTHING_KNOWN = Known()
