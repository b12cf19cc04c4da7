"""List and cancel delayed messages: those that wait in Redis for their time."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from motia_redis._admin.connections import open_namespace
from motia_redis._admin.delayed_records import MEMBER, DelayedRecord
from motia_redis._admin.merging import merge
from motia_redis._store import codec
from motia_redis._store.sweeping import due_keys
from motia_redis._tracing import trace_id_of

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncIterator

    from motia_redis._scripts.timing import DueKeys
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.manager import StateManager
    from motia_redis._transport.router import Router

_PAGE = 20  # messages of one read; each may have the largest size


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledMessage:
    """Describe a message that waits for its time."""

    id: str  #: what `enqueue` returned, and `cancel` takes
    topic: str
    key: str | None
    due: datetime  #: when it will be sent, by the clock of Redis
    trace_id: str | None
    text: bytes = field(repr=False)  #: its data, as JSON text

    @property
    def data(self) -> Any:
        """Return the data of the message. Raises CorruptValue."""
        return codec.decode(self.text, subject=f"message {self.id}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingMessages:
    """Hold how many delayed messages wait in a namespace, and when something falls due."""

    messages: int
    next_due: int | None  #: when anything is due first, in Unix milliseconds of the server; None: nothing waits


class Scheduled:
    """List and cancel the delayed messages of a namespace.

    No call scans the keyspace. Every call opens separate connections, and may raise StateUnavailable.
    """

    def __init__(self, state: StateManager) -> None:
        self._state = state

    async def count(self, topic: str | None = None) -> int:
        """Return how many messages wait: of a topic, or of all topics.

        Cost: three round trips. For a topic, all messages that wait in its partition are read.
        """
        async with open_namespace(self._state, "scheduled messages") as (router, keyspace):
            if topic is None:
                return (await read_waiting(router, keyspace)).messages
            found = 0
            for keys in _partitions(keyspace, topic):
                async for page in _pages(router, keys, topic):
                    found += len(page)
            return found

    async def list(self, topic: str | None = None, *, limit: int = 100) -> builtins.list[ScheduledMessage]:
        """Return the messages that are due first, of a topic or of all topics, ordered by their time.

        The result is not of one moment. Cost: a few round trips, page by page; the bytes of the messages. For a topic, those of
        other topics in its partition are read, too.
        """
        found: builtins.list[ScheduledMessage] = []
        async with open_namespace(self._state, "scheduled messages") as (router, keyspace):
            sources = [_messages(router, keys, topic) for keys in _partitions(keyspace, topic)]
            async for message in merge(sources, lambda message: message.due):
                if len(found) >= limit:
                    break
                found.append(message)
        return found

    async def cancel(self, id: str) -> bool:
        """Remove a message, and return whether it waited, as `StateManager.cancel` does. Raises InvalidName."""
        return await self._state.cancel(id)

    async def cancel_all(self, topic: str | None = None) -> int:
        """Remove all messages that wait, of a topic or of all topics, and return their number. Each removal is atomic."""
        cancelled = 0
        async with open_namespace(self._state, "scheduled messages") as (router, keyspace):
            for keys in _partitions(keyspace, topic):
                before = -1
                while before < cancelled:  # what was removed meanwhile may have hidden others from the pages
                    before = cancelled
                    async for page in _pages(router, keys, topic):
                        for message in page:
                            cancelled += await self._state.cancel(message.id)
        return cancelled


async def read_waiting(router: Router, keyspace: Keyspace) -> WaitingMessages:
    """Return how many messages wait, and when something falls due. Cost: three round trips. Errors are those of redis-py."""
    partitions = _partitions(keyspace, None)
    counts = await router.gather([(keys.delayed, ("HLEN", keys.delayed)) for keys in partitions])
    first: list[Any] = await router.gather([(keys.due, ("ZRANGE", keys.due, 0, 0, "WITHSCORES")) for keys in partitions])
    clocks = await router.gather([(keys.trimmed, ("HGET", keys.trimmed, "clock")) for keys in partitions])  # lib/clock.lua
    times = [_score(page) - int(clock or 0) for page, clock in zip(first, clocks, strict=True) if page]
    return WaitingMessages(messages=sum(counts), next_due=min(times) if times else None)


def _score(page: list[Any]) -> int:
    """Return the score of the first member, as RESP3 gives it, or RESP2."""
    return int(float(page[0][1] if isinstance(page[0], list) else page[1]))


def _partitions(keyspace: Keyspace, topic: str | None) -> list[DueKeys]:
    """Return the keys of all partitions, or of the one of a topic."""
    if topic is not None:
        return [due_keys(keyspace, keyspace.partition(topic.encode(errors="replace")))]
    return [due_keys(keyspace, partition) for partition in range(keyspace.layout.partitions)]


async def _messages(router: Router, keys: DueKeys, topic: str | None) -> AsyncIterator[ScheduledMessage]:
    async for page in _pages(router, keys, topic):
        for message in page:
            yield message


async def _pages(router: Router, keys: DueKeys, topic: str | None) -> AsyncIterator[list[ScheduledMessage]]:
    """Yield the messages of a partition, page by page, by their time."""
    at = 0
    while members := await router.execute(keys.due, "ZRANGE", keys.due, at, at + _PAGE - 1):
        ids = [member.removeprefix(MEMBER) for member in members if member.startswith(MEMBER)]
        records: list[Any] = await router.execute(keys.delayed, "HMGET", keys.delayed, *ids) if ids else []
        decoded = [_decode(each, record) for each, record in zip(ids, records, strict=True) if record is not None]
        yield [message for message in decoded if message is not None and topic in (None, message.topic)]
        at += _PAGE


def _decode(message_id: bytes, record: bytes) -> ScheduledMessage | None:
    """Return the message of a record, or None if another client wrote it."""
    found = DelayedRecord.decode(record)
    if found is None:
        return None
    return ScheduledMessage(
        id=message_id.decode(errors="replace"),
        topic=found.topic.decode(errors="replace"),
        key=found.key.decode(errors="replace") or None,
        due=datetime.fromtimestamp(found.due / 1000, UTC),
        trace_id=trace_id_of(found.trace.decode(errors="replace")) if found.trace else None,
        text=found.data,
    )
