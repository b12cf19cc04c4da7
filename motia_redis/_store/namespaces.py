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
    from collections.abc import Mapping

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
    commands = [("HGETALL", key), ("TIME",), ("INFO",), ("CONFIG GET", "save")]
    fields, (seconds, microseconds), info, config = await router.pipeline(key, commands)
    clock = ServerClock(b"%d" % (seconds * 1000 + microseconds // 1000), time.monotonic())
    stored = _decode(namespace, fields or await _write(router, key, required or Layout()))
    if required is not None and required != stored:
        raise LayoutMismatch(
            f"namespace {namespace!r} was created with {stored}; this process requires {required}: use the stored layout"
        )
    return OpenedNamespace(stored, clock, info, config)


async def restore_layout(router: Router, namespace: str, layout: Layout) -> None:
    """Check that the namespace still has `layout`. Write it again if Redis has lost it.

    Raises LayoutMismatch if another process has written another one since; errors of Redis are those of redis-py. Cost: one round
    trip, and another one to write the layout.
    """
    key = keyspace.layout_key(namespace)
    stored = _decode(namespace, await router.execute(key, "HGETALL", key) or await _write(router, key, layout))
    if stored != layout:
        raise LayoutMismatch(
            f"namespace {namespace!r} has {stored} now, and this process works with {layout}: Redis has lost its data, and "
            "another process has written the layout; start this process again, because no other process sees what it writes"
        )


async def _write(router: Router, key: str, layout: Layout) -> dict[bytes, bytes]:
    """Write the layout if there is none, and return the stored fields."""
    fields = {
        "version": str(keyspace.LAYOUT_VERSION),
        "partitions": str(layout.partitions),
        "lanes": str(layout.lanes),
    }
    return await storage.ensure_layout(router, layout=key, fields=fields)


def _decode(namespace: str, fields: Mapping[bytes, bytes]) -> Layout:
    subject = f"namespace {namespace!r}"
    try:
        version, partitions, lanes = (int(fields[name]) for name in (b"version", b"partitions", b"lanes"))
    except (KeyError, ValueError):
        raise LayoutMismatch(f"{subject}: {keyspace.layout_key(namespace)} holds no layout: {fields!r:.200}") from None
    if version != keyspace.LAYOUT_VERSION:
        raise LayoutMismatch(f"{subject} has layout version {version}; this package supports {keyspace.LAYOUT_VERSION}")
    return Layout(partitions, lanes)
