"""Open a namespace: read its layout, or write one if there is none, and read the server's clock and settings."""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import floor
from typing import TYPE_CHECKING, Any

from motia_redis._scripts import storage
from motia_redis._store import keyspace
from motia_redis._store.keyspace import Layout
from motia_redis.errors import LayoutMismatch

if TYPE_CHECKING:
    from motia_redis._transport.router import Router


class ServerClock:
    """Estimate the server's clock from the revisions of changes."""

    __slots__ = ("_monotonic", "_revision")

    def __init__(self, revision: bytes, monotonic: float) -> None:
        self._revision = revision
        self._monotonic = monotonic

    def update(self, revision: bytes) -> None:
        """Set the clock by the revision of a change that was just applied."""
        self._revision, self._monotonic = revision, time.monotonic()

    def at(self, monotonic: float) -> int:
        """Return the server's time at a moment of `time.monotonic`, in Unix milliseconds. The result is never late."""
        return int(self._revision.partition(b"-")[0]) + floor((monotonic - self._monotonic) * 1000)


@dataclass(frozen=True, slots=True)
class OpenedNamespace:
    """Hold a namespace's layout, and the server's clock and settings from the same round trip."""

    layout: Layout
    clock: ServerClock
    info: Any  #: reply to INFO, or the error reply
    config: Any  #: reply to CONFIG GET save, or the error reply


async def open_namespace(router: Router, namespace: str, required: Layout | None) -> OpenedNamespace:
    """Return a namespace's layout. Write `required`, or the default layout, if the namespace has none.

    A replica can be read as long as there is a layout. Raises LayoutMismatch; errors of Redis are those of redis-py.
    Cost: one round trip, and another one to write the layout.
    """
    key = keyspace.layout_key(namespace)
    commands = [("HMGET", key, "version", "partitions", "lanes"), ("TIME",), ("INFO",), ("CONFIG GET", "save")]
    reply, (seconds, microseconds), info, config = await router.pipeline(key, commands)
    clock = ServerClock(b"%d" % (seconds * 1000 + microseconds // 1000), time.monotonic())
    if reply == [None, None, None]:
        wanted = required or Layout()
        reply = await storage.ensure_layout(
            router, layout=key, version=keyspace.LAYOUT_VERSION, partitions=wanted.partitions, lanes=wanted.lanes
        )
    return OpenedNamespace(_checked_layout(namespace, reply, required), clock, info, config)


def _checked_layout(namespace: str, reply: Any, required: Layout | None) -> Layout:
    subject = f"namespace {namespace!r}"
    try:
        version, partitions, lanes = map(int, reply)
    except (TypeError, ValueError):
        raise LayoutMismatch(f"{subject}: {keyspace.layout_key(namespace)} holds no layout: {reply!r}") from None
    if version != keyspace.LAYOUT_VERSION:
        raise LayoutMismatch(f"{subject} has layout version {version}; this package supports {keyspace.LAYOUT_VERSION}")
    stored = Layout(partitions, lanes)
    if required is not None and required != stored:
        raise LayoutMismatch(f"{subject} was created with {stored}; this process requires {required}: use the stored layout")
    return stored
