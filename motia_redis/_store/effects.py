"""Identify the calls that a handler makes, so that a later attempt at the same event gets the outcome of the first one.

The worker enters an `Effects` around each attempt of a step with `effects_once`. Each change made there carries the id of its
call. The script keeps the outcome under that id in a hash of the event, in the partition of the change.
"""

from __future__ import annotations

from contextvars import ContextVar
from functools import lru_cache
from hashlib import blake2b
from itertools import count
from typing import TYPE_CHECKING

from motia_redis._store.keyspace import is_cron, join, partition_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.retries import Attempt
    from motia_redis._transport.router import Router

_current: ContextVar[Effects | None] = ContextVar("motia_redis_effects", default=None)


def event_id(identity: str, stream: bytes, entry_id: str) -> bytes:
    """Return the id of an event as one step handles it: `identity` is that of the step, `entry_id` that of the original entry.

    It stays the same when the step is renamed, which also renames the stream of its cron triggers.
    """
    return _event_prefix(identity, stream) + entry_id.encode()


@lru_cache(maxsize=4096)  # a worker asks for each event of its lanes
def _event_prefix(identity: str, stream: bytes) -> bytes:
    return b"%b\n%b\n" % (identity.encode(), b"cron" if is_cron(stream) else stream)


def record_name(event: bytes) -> bytes:
    """Return how the records of an event are named in each partition."""
    return blake2b(event, digest_size=16).hexdigest().encode()


async def free(router: Router, keyspace: Keyspace, records: Iterable[tuple[bytes, Iterable[int] | None]]) -> None:
    """Delete records: each with its name, and the partitions where it may be; None = all. Cost: one round trip."""
    by_partition: dict[int, list[bytes]] = {}
    for name, partitions in records:
        for partition in range(keyspace.layout.partitions) if partitions is None else partitions:
            by_partition.setdefault(partition, []).append(keyspace.effects(keyspace.scopes(partition), name))
    if by_partition:
        await router.gather([(keys[0], ("UNLINK", *keys)) for keys in by_partition.values()])


class EventEffects:
    """Where the outcomes of the calls for one event are kept, over all attempts that this process makes at it."""

    __slots__ = ("lifetime", "name", "partitions", "place")

    def __init__(self, name: bytes, *, place: tuple[str, str], lifetime: int, is_first: bool) -> None:
        self.name = name  #: the same in all processes, and for the retry of a dead letter
        self.place = place  #: URL and namespace of the managers whose calls count
        self.lifetime = lifetime  #: milliseconds after the last call; a fallback, for records that nobody frees
        #: Partitions with records; None = any, because an earlier attempt may have been made in another process.
        self.partitions: set[int] | None = set() if is_first else None

    @property
    def has_records(self) -> bool:
        """Return whether there may be something to free."""
        return self.partitions is None or bool(self.partitions)


class Effect:
    """One call of a handler: a claim on its outcome, in the form that `IdempotencyClaim` has, too."""

    __slots__ = ("_running", "_subject", "name")

    def __init__(self, running: Effects, name: bytes, subject: bytes) -> None:
        self._running = running
        self._subject = subject
        self.name = name  #: identifies the call among those for the event

    @property
    def lifetime(self) -> int:
        """Return the milliseconds for which the outcome is kept."""
        return self._running.event.lifetime

    def record(self, names: Keyspace, stream: bytes) -> bytes:
        """Return the hash with the outcome, beside a stream. From now on there may be one."""
        event = self._running.event
        if event.partitions is not None:
            event.partitions.add(partition_of(stream))
        return names.effects(stream, event.name)

    def attempt_token(self, attempt: Attempt) -> bytes:
        """Return the attempt token of an attempt to send the call. The first call of a scope or topic sets the lifetime."""
        if attempt.number > 1:
            return b"%d:%d:%d:%d:@%b" % (attempt.number, attempt.began, attempt.elapsed, self.lifetime, self.name)
        return b"@" + self.name if self._subject in self._running.kept else b"@%b%d" % (self.name, self.lifetime)

    def confirm(self) -> None:
        """Note that the call was made: the hash has a lifetime."""
        self._running.kept.add(self._subject)


class Effects:
    """Count the calls of one attempt by their kind."""

    __slots__ = ("_counts", "event", "is_over", "kept")

    def __init__(self, event: EventEffects) -> None:
        self.event = event
        self.is_over = False  #: the attempt succeeded: what still runs makes changes of its own
        self.kept: set[bytes] = set()  #: scopes and topics whose hash has got its lifetime in this attempt
        self._counts: dict[tuple[bytes, ...], Iterator[int]] = {}

    def claim(self, method: bytes, *subject: bytes) -> Effect:
        """Return the claim for the next call of this method on a scope and key, or on a topic. Threads may call this at once."""
        number = next(self._counts.setdefault((method, *subject), count()))
        name = blake2b(join([method, *subject, b"%d" % number]), digest_size=8).hexdigest()
        return Effect(self, name.encode(), subject[0])


def current() -> Effects | None:
    """Return the effects of the attempt that runs here. None: there are none to record."""
    effects = _current.get()
    return None if effects is None or effects.is_over else effects


def enter(effects: Effects | None) -> None:
    """Let what follows in this task, and in tasks and threads that it starts, be part of an attempt; None: of no attempt."""
    _current.set(effects)
