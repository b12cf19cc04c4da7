"""Open a namespace: read its layout and settings, or write them if there are none, and read the server's clock and options."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from math import floor
from typing import TYPE_CHECKING, Any

import orjson
from redis.exceptions import RedisError

from motia_redis._scripts import storage
from motia_redis._store import copy_marks, keyspace, settings
from motia_redis._store.keyspace import Layout
from motia_redis.errors import LayoutMismatch, SettingsMismatch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from motia_redis._store.settings import GivenSettings, Settings
    from motia_redis._transport.router import Router
    from motia_redis.errors import StateError

_REJECTED = 600_000  # milliseconds for which a rejected process is on record
_FEATURE = b"feature."  # how fields of the layout begin that an older process must not overlook, see docs/format.md


class ServerClock:
    """Estimate the server's clock from the revisions of changes."""

    __slots__ = ("_seen",)

    def __init__(self, revision: bytes, monotonic: float) -> None:
        self._seen = revision, monotonic  # one attribute, because threads may set the clock at once

    def update(self, revision: bytes) -> None:
        """Set the clock by the revision of a change that was just applied."""
        self._seen = revision, time.monotonic()

    def at(self, monotonic: float) -> int:
        """Return the server's time at a moment of `time.monotonic`, in Unix milliseconds. The result is never late."""
        revision, seen = self._seen
        return int(revision.partition(b"-")[0]) + floor((monotonic - seen) * 1000)


@dataclass(frozen=True, slots=True)
class StoredLayout:
    """Hold what a namespace has stored about itself."""

    layout: Layout
    settings: Settings


@dataclass(frozen=True, slots=True)
class OpenedNamespace:
    """Hold what a namespace has stored about itself, and the server's clock and settings from the same round trip."""

    stored: StoredLayout
    clock: ServerClock
    info: Any  #: reply to INFO, or the error reply
    config: Any  #: reply to CONFIG GET save, or the error reply


@dataclass(frozen=True, slots=True)
class Rejection:
    """Describe a process that was rejected because it requires another layout or other settings than the namespace has."""

    time: int  #: Unix milliseconds of the server
    host: str
    pid: int
    text: str  #: of the error that the process got


async def open_namespace(
    router: Router, namespace: str, required: Layout | None, given: GivenSettings, *, in_copy: bool = False
) -> OpenedNamespace:
    """Return a namespace's layout and settings. Write `required` and `given`, or the defaults, if the namespace has none.

    `in_copy` also opens a namespace that a copy is made in. A replica can be read as long as there is a layout. A process that is
    rejected leaves a `Rejection` for ten minutes. Raises LayoutMismatch and SettingsMismatch; errors of Redis are those of
    redis-py. Cost: one round trip, and another one to write the layout or the rejection.
    """
    key, subject = keyspace.layout_key(namespace), f"namespace {namespace!r}"
    commands = [("HGETALL", key), ("TIME",), ("INFO",), ("CONFIG GET", "save")]
    fields, (seconds, microseconds), info, config = await router.pipeline(key, commands)
    clock = ServerClock(b"%d" % (seconds * 1000 + microseconds // 1000), time.monotonic())
    initial = StoredLayout(required or Layout(), given.initial())
    stored = _decode(namespace, fields or await _write(router, key, initial), in_copy=in_copy)
    try:
        _check_layout(subject, required, stored.layout)
        given.check(subject, stored.settings)
    except (LayoutMismatch, SettingsMismatch) as error:
        await _leave_rejection(router, namespace, clock.at(time.monotonic()), error)
        raise
    return OpenedNamespace(stored, clock, info, config)


def _check_layout(subject: str, required: Layout | None, stored: Layout) -> None:
    if required is not None and required != stored:
        raise LayoutMismatch(
            f"{subject} was created with {stored}; this process requires {required}: use the stored layout, or move to "
            "another one with `motia-redis copy --to-layout`"
        )


async def _leave_rejection(router: Router, namespace: str, now: int, error: StateError) -> None:
    """Record that this process is rejected, so that `motia-redis doctor` can tell. A full Redis and a replica take no record."""
    record = {"time": now, "host": socket.gethostname(), "pid": os.getpid(), "text": str(error)}
    key = keyspace.rejected_key(namespace)
    with suppress(RedisError, OSError):
        await router.execute(key, "SET", key, orjson.dumps(record), "PX", _REJECTED)


async def read_rejection(router: Router, namespace: str) -> Rejection | None:
    """Return the last process that was rejected in the last ten minutes. Errors are those of redis-py."""
    key = keyspace.rejected_key(namespace)
    with suppress(ValueError):
        match orjson.loads(await router.execute(key, "GET", key) or b"null"):
            case {"time": int(at), "host": str(host), "pid": int(pid), "text": str(text)}:
                return Rejection(at, host, pid, text)
    return None


async def restore_layout(router: Router, namespace: str, own: StoredLayout, *, in_copy: bool = False) -> Settings:
    """Check that the namespace still has the layout of `own`. Write `own` again if Redis has lost it. Return the stored settings.

    Raises LayoutMismatch if another process has written another layout since; errors of Redis are those of redis-py. Cost: one
    round trip, and another one to write the layout.
    """
    key = keyspace.layout_key(namespace)
    fields = await router.execute(key, "HGETALL", key) or await _write(router, key, own)
    stored = _decode(namespace, fields, in_copy=in_copy)
    if stored.layout != own.layout:
        raise LayoutMismatch(
            f"namespace {namespace!r} has {stored.layout} now, and this process works with {own.layout}: Redis has lost its "
            "data, and another process has written the layout; start this process again, as no other one sees what it writes"
        )
    return stored.settings


async def change_settings(router: Router, namespace: str, changed: Settings, *, in_copy: bool = False) -> Settings:
    """Store the settings of a namespace that exists and return them. Raises LayoutMismatch if it has none, or another format."""
    key = keyspace.layout_key(namespace)
    fields = await storage.change_settings(router, layout=key, version=keyspace.FORMAT_VERSION, fields=changed.encode())
    return _decode(namespace, fields, in_copy=in_copy).settings


async def create_copy(
    router: Router, namespace: str, own: StoredLayout, mark: copy_marks.CopyMark
) -> tuple[StoredLayout, copy_marks.CopyMark | None]:
    """Create a namespace for a copy, if there is none. Return what is stored, and its mark; None: it was not made for a copy.

    Raises LayoutMismatch for another format; errors of Redis are those of redis-py. Cost: one round trip.
    """
    fields = await _write(router, keyspace.layout_key(namespace), own, mark.encode())
    stored = _decode(namespace, fields, in_copy=True)
    return stored, copy_marks.decode(fields)


async def _write(router: Router, key: str, own: StoredLayout, others: Mapping[str, str] | None = None) -> dict[bytes, bytes]:
    """Write the layout, the settings and other fields if there is no layout, and return the stored fields."""
    counts = {"partitions": own.layout.partitions, "lanes": own.layout.lanes}
    fields = {"version": str(keyspace.FORMAT_VERSION)} | {name: str(count) for name, count in counts.items()}
    return await storage.ensure_layout(router, layout=key, fields=fields | own.settings.encode() | dict(others or {}))


def _decode(namespace: str, fields: Mapping[bytes, bytes], *, in_copy: bool = False) -> StoredLayout:
    subject = f"namespace {namespace!r}"
    try:
        version, partitions, lanes = (int(fields[name]) for name in (b"version", b"partitions", b"lanes"))
    except (KeyError, ValueError):
        raise LayoutMismatch(f"{subject}: {keyspace.layout_key(namespace)} holds no layout: {fields!r:.200}") from None
    if version > keyspace.FORMAT_VERSION:
        raise LayoutMismatch(
            f"{subject} has format version {version}, which a newer motia-redis wrote; this one knows version "
            f"{keyspace.FORMAT_VERSION}: upgrade motia-redis in this process"
        )
    if version < keyspace.FORMAT_VERSION:
        raise LayoutMismatch(
            f"{subject} has format version {version}, which an older motia-redis wrote; this one needs version "
            f"{keyspace.FORMAT_VERSION}, and the two cannot run side by side: use another namespace, or end all processes of the "
            "older version and delete the keys of the namespace"
        )
    features = sorted(name.decode(errors="replace") for name in fields if name.startswith(_FEATURE))
    if features:
        raise LayoutMismatch(
            f"{subject} uses {', '.join(features)}, which this motia-redis does not know: upgrade motia-redis in this process"
        )
    try:
        mark = copy_marks.decode(fields)
    except ValueError as error:
        raise LayoutMismatch(f"{subject}: {error}") from None
    if mark is not None and not mark.is_finished and not in_copy:
        raise LayoutMismatch(
            f"{subject} is a copy of {mark.source} that is not finished: finish it first, with `motia-redis copy --finish`"
        )
    return StoredLayout(Layout(partitions, lanes), settings.decode(subject, fields))
