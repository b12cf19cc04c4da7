"""Read change events once for all watches of an event loop.

One blocking read waits for the events of all partitions that are watched, in a Cluster one for each of them. A look at the
lanes follows after each failure, and every five seconds: it finds what was trimmed unread, and what a server has lost.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from redis.exceptions import RedisError

from motia_redis import _metrics
from motia_redis._scripts import storage as scripts
from motia_redis._store.cursors import end_of, has_reached, verdict
from motia_redis._store.lanes import Item, PartitionLog, ReadSize, size_of
from motia_redis._transport import failures
from motia_redis._transport.backoff import Backoff
from motia_redis.errors import HistoryForked, HistoryGone, StateUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from motia_redis._store.cursors import Positions
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.lanes import Batch, Event
    from motia_redis._transport.outages import Outage
    from motia_redis._transport.router import Router

_log = logging.getLogger("motia_redis.state")

CHECK_INTERVAL = 5.0  #: seconds between two looks at the lanes
_TRUST = 5.0  # seconds after a read in which no entry is trimmed that was not there then, up to the hard cap
_BLOCK = 1000  # milliseconds of one blocking read; less than the time-out of a reply
_READ_ENTRIES = 500  # largest number of entries of one lane in a read
_PAUSES = (0.05, 1.0)  # seconds: first and longest, while Redis is away


class Subscriber(Protocol):
    """What the feed delivers to."""

    scope: bytes | None  #: None: all scopes
    key: bytes | None
    lose: Callable[[HistoryGone | HistoryForked], None]  #: learns that events were lost, or that the server has another history
    fail: Callable[[Exception], None]  #: learns that no more events come

    def push(self, items: Sequence[Item], size: int) -> None:
        """Take events of the scope and key, and the bytes of their values."""


async def look_at_lanes(
    router: Router, keyspace: Keyspace, partition: int, positions: Positions | None = None
) -> tuple[int, dict[int, scripts.LanePosition]]:
    """Return the server's time in Unix milliseconds, and how far the lanes have come: those of `positions`, or all.

    With `positions` their entries are looked for.
    """
    lanes = range(keyspace.layout.lanes) if positions is None else list(positions)
    found = await scripts.lane_positions(
        router,
        trimmed=keyspace.trimmed(keyspace.events(partition, 0)),
        streams=[keyspace.events(partition, lane) for lane in lanes],
        wanted=[b"" if positions is None or not positions[lane].number else positions[lane].id for lane in lanes],
    )
    return found.time, dict(zip(lanes, found.lanes, strict=True))


def find_loss(
    keyspace: Keyspace, partition: int, positions: Positions, found: Mapping[int, scripts.LanePosition]
) -> HistoryGone | HistoryForked | None:
    """Return the error for positions that do not fit the lanes as they were found. None: nothing was lost."""
    for lane, position in positions.items():
        loss = verdict(position, found[lane])
        stream = keyspace.events(partition, lane).decode()
        if loss == "gone":
            return HistoryGone(
                f"events after {position.id.decode()} of {stream} were trimmed: start with 'snapshot', give on_gap='resync', "
                "or keep events for longer (Retention.seconds)"
            )
        if loss == "forked":
            return HistoryForked(
                f"event {position.id.decode()} of {stream} is missing, but was not trimmed: the server has lost writes, in a "
                "fail-over or by a restart: start with 'snapshot', or give on_gap='resync'"
            )
    return None


class _Partition:
    """One partition that is watched: its log, who watches it, and who waits for it to come so far."""

    def __init__(self, number: int, log: PartitionLog) -> None:
        self.number = number
        self.log = log
        self.confirmed = time.monotonic()  #: when it was last known that nothing newer was there
        self.checked_at = 0  #: time of the last look by the server's clock, in Unix milliseconds
        self.waiting: list[tuple[Positions, asyncio.Future[None]]] = []
        self._everything: dict[Subscriber, None] = {}
        self._scopes: dict[bytes, dict[Subscriber, None]] = {}
        self._keys: dict[tuple[bytes, bytes], dict[Subscriber, None]] = {}

    def _place(self, subscriber: Subscriber) -> dict[Subscriber, None]:
        if subscriber.scope is None:
            return self._everything
        if subscriber.key is None:
            return self._scopes.setdefault(subscriber.scope, {})
        return self._keys.setdefault((subscriber.scope, subscriber.key), {})

    def add(self, subscriber: Subscriber) -> None:
        self._place(subscriber)[subscriber] = None

    def remove(self, subscriber: Subscriber) -> None:
        place = self._place(subscriber)
        place.pop(subscriber, None)
        if not place and subscriber.scope is not None:
            if subscriber.key is None:
                del self._scopes[subscriber.scope]
            else:
                del self._keys[subscriber.scope, subscriber.key]

    def subscribers(self) -> list[Subscriber]:
        found = list(self._everything)
        for place in (*self._scopes.values(), *self._keys.values()):
            found += place
        return found

    def deliver(self, batch: Batch, events: Sequence[Event]) -> None:
        """Pass the events of a batch on. Those of a scope, and of a key, are one list for all who follow it."""
        everything, scopes, keys, number = self._everything, self._scopes, self._keys, self.number
        found: dict[Any, tuple[dict[Subscriber, None], list[Item]]] = {}
        for index, event in enumerate(events):
            scope = event.scope
            if scope is None:
                continue
            item = Item(event, number, batch, index)
            for name, place in ((scope, scopes), ((scope, event.key), keys)):
                if name in place:
                    found.setdefault(name, (place[name], []))[1].append(item)  # type: ignore[index]
            if everything:
                found.setdefault(None, (everything, []))[1].append(item)
        for subscribers, items in found.values():
            size = size_of(items)
            for subscriber in tuple(subscribers):  # one that fails leaves
                subscriber.push(items, size)
        self.wake()

    def wake(self) -> None:
        """Tell those who wait for positions that have been reached."""
        if self.waiting:
            for target, future in self.waiting:
                if not future.done() and all(has_reached(self.log.done[lane], position) for lane, position in target.items()):
                    future.set_result(None)
            self.waiting = [(target, future) for target, future in self.waiting if not future.done()]

    def give_up(self) -> None:
        """Tell those who wait for positions that these do not come."""
        waiting, self.waiting = self.waiting, []
        for _, future in waiting:
            future.cancel()


class Feed:
    """Deliver the events of a namespace to the watches of one event loop.

    Arguments:
        new_outage: returns where failures are reported; its argument says what they mean.
        check_layout: looks whether Redis still has the layout, after a failure.
        revive: starts an embedded server that has ended.
    """

    def __init__(
        self,
        router: Router,
        keyspace: Keyspace,
        *,
        new_outage: Callable[[str], Outage],
        check_layout: Callable[[], Awaitable[None]],
        revive: Callable[[], Awaitable[None]],
    ) -> None:
        self.router: Router = router
        self.keyspace: Keyspace = keyspace
        self.outage: Outage = new_outage("watches receive nothing")
        self.check_layout: Callable[[], Awaitable[None]] = check_layout
        self.revive: Callable[[], Awaitable[None]] = revive
        self._partitions: dict[int, _Partition] = {}
        self._readers: dict[int, _Reader] = {}  # by partition in a Cluster, else one
        if _metrics.active is not None:
            _metrics.active.feeds.add(self)

    def is_open(self, partition: int) -> bool:
        """Return whether a partition is read."""
        return partition in self._partitions

    def open(self, partition: int, positions: Positions) -> bool:
        """Begin to read a partition after these positions of all lanes. Return False if it is read already."""
        if partition in self._partitions:
            return False
        streams = {lane: self.keyspace.events(partition, lane) for lane in positions}
        self._partitions[partition] = _Partition(partition, PartitionLog(streams, positions))
        group = self._group(partition)
        reader = self._readers.get(group)
        if reader is None:
            reader = self._readers[group] = _Reader(self)
        reader.add(self._partitions[partition])
        return True

    @property
    def watchers(self) -> int:
        """Return the number of subscribers."""
        return len({subscriber for partition in list(self._partitions.values()) for subscriber in partition.subscribers()})

    def register(self, subscriber: Subscriber, partitions: Iterable[int]) -> None:
        """Deliver the events of partitions that are open to a subscriber, from now on."""
        for partition in partitions:
            self._partitions[partition].add(subscriber)

    def unregister(self, subscriber: Subscriber, partitions: Iterable[int]) -> None:
        """Deliver nothing more to a subscriber. A partition without one is read no further."""
        for number in partitions:
            partition = self._partitions.get(number)
            if partition is None:
                continue
            partition.remove(subscriber)
            if not partition.subscribers():
                del self._partitions[number]
                partition.give_up()
                group = self._group(number)
                if self._readers[group].remove(partition):
                    del self._readers[group]

    def _group(self, partition: int) -> int:
        """Return which reader reads a partition."""
        return partition if self.router.is_cluster else 0

    def positions(self, partition: int) -> Positions:
        """Return how far a partition has been delivered."""
        return self._partitions[partition].log.done

    def confirmed(self, partitions: Iterable[int]) -> float:
        """Return the time, by `time.monotonic`, when all these partitions were last known to have been read to their ends."""
        return min(self._partitions[partition].confirmed for partition in partitions)

    def checked_at(self, partitions: Iterable[int]) -> int:
        """Return the server's time of the earliest last look at these partitions, in Unix milliseconds."""
        return min(self._partitions[partition].checked_at for partition in partitions)

    async def reach(self, partition: int, positions: Positions) -> None:
        """Wait until everything up to these positions has been delivered, or cannot be: the partition is read no further."""
        if (watched := self._partitions.get(partition)) is not None:
            future = asyncio.get_running_loop().create_future()
            watched.waiting.append((positions, future))
            watched.wake()
            await asyncio.wait([future])

    async def aclose(self) -> None:
        """End. Subscribers learn that no more events come."""
        readers, self._readers = list(self._readers.values()), {}
        partitions, self._partitions = list(self._partitions.values()), {}
        for partition in partitions:
            partition.give_up()
            for subscriber in partition.subscribers():
                subscriber.fail(StateUnavailable("the manager of this watch was closed"))
        for reader in readers:
            await reader.aclose()


class _Reader:
    """Read some partitions, which one command can read, until none is left."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._partitions: dict[_Partition, None] = {}
        self._size = ReadSize(_READ_ENTRIES)
        self._answered = time.monotonic()  # when the last read began that was answered
        self._checked = 0.0
        self._losses = feed.router.losses
        self._reading: asyncio.Future[Any] | None = None
        self._task = asyncio.create_task(self._run())

    def add(self, partition: _Partition) -> None:
        self._partitions[partition] = None
        self._interrupt()

    def remove(self, partition: _Partition) -> bool:
        """Return whether no partition is left; the reader has ended then."""
        del self._partitions[partition]
        if not self._partitions:
            self._task.cancel()
        return not self._partitions

    def _interrupt(self) -> None:
        if self._reading is not None:
            self._reading.cancel()  # it only reads, so nothing is lost with its connection

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        feed, backoff, has_failed = self._feed, Backoff(*_PAUSES), False
        while self._partitions:
            try:
                if has_failed:
                    await feed.check_layout()
                if has_failed or self._is_unsure() or time.monotonic() - self._checked > CHECK_INTERVAL:
                    await self._check()
                    has_failed = False
                    backoff.reset()
                    feed.outage.answered()
                await self._read()
            except (RedisError, OSError) as error:
                has_failed = True
                feed.outage.failed(error)
                if failures.is_disconnected(error):
                    with suppress(StateUnavailable):
                        await feed.revive()
                await backoff.sleep()
            except Exception as error:  # noqa: BLE001 - another layout; or whatever it is, a watch must not fall silent
                for partition in tuple(self._partitions):
                    for subscriber in partition.subscribers():
                        subscriber.fail(error)
                return

    def _is_unsure(self) -> bool:
        """Return whether entries may have been trimmed since the last read, or another server may answer."""
        return self._losses != self._feed.router.losses or time.monotonic() - self._answered > _TRUST

    async def _check(self) -> None:
        """Look whether everything that was read is still what the server has, and nothing was missed."""
        feed, losses, began = self._feed, self._feed.router.losses, time.monotonic()
        partitions = list(self._partitions)
        looks = await asyncio.gather(
            *(look_at_lanes(feed.router, feed.keyspace, each.number, dict(each.log.read)) for each in partitions)
        )
        self._losses, self._checked, self._answered = losses, began, began
        for partition, (server_time, found) in zip(partitions, looks, strict=True):
            if partition not in self._partitions:
                continue
            loss = find_loss(feed.keyspace, partition.number, partition.log.read, found)
            partition.checked_at = server_time
            if loss is not None:
                ends = {lane: end_of(position) for lane, position in found.items()}
                partition.log = PartitionLog(partition.log.streams, ends)
                for subscriber in partition.subscribers():
                    subscriber.lose(loss)
                partition.give_up()
                continue
            for lane, position in found.items():  # another client may have trimmed the stream, which is not counted
                partition.log.recount(lane, end_of(position))

    async def _read(self) -> None:
        """Wait for events, and deliver them."""
        partitions = list(self._partitions)
        logs = [(partition, partition.log) for partition in partitions]
        streams = [stream for _, log in logs for stream in log.streams.values()]
        places = [place for _, log in logs for place in log.places()]
        began = time.monotonic()
        command = ("XREAD", "COUNT", self._size.count, "BLOCK", _BLOCK, "STREAMS", *streams, *places)
        self._reading = asyncio.ensure_future(self._feed.router.execute_blocking(streams[0], *command))
        reading = self._reading
        try:
            await asyncio.wait([reading])
        finally:
            self._reading = None
            if not reading.cancel() and not reading.cancelled():
                reading.exception()  # retrieved, also if this task is cancelled
        if reading.cancelled():
            return  # a partition was added
        reply = reading.result()
        if self._is_unsure():
            return  # this process may have slept, while entries were trimmed: what was read is read again
        self._answered = began
        is_full = self._size.record(reply.values())
        for partition, log in logs:
            if partition in self._partitions and partition.log is log:
                taken = log.take(reply)
                if not is_full:
                    partition.confirmed = began
                if taken is not None:
                    partition.deliver(*taken)
