"""Read the lanes that this worker holds and hand the entries on. Wait for more without polling. Reading changes nothing in Redis.

A lane is read from the position that its last holder had recorded: first the unfinished entries up to it, then what follows.

Redis works on the next read while the entries of the last one are handed on. The read that waits for new entries also returns
them, so that an entry of an idle lane takes one round trip.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import RedisError

from motia_redis._store.entry_ids import order
from motia_redis._transport import outages
from motia_redis._transport.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from motia_redis._transport.router import Router
    from motia_redis._worker.intake import Intake
    from motia_redis._worker.lanes import Lane
    from motia_redis._worker.subscriptions import Subscription

    RawEntry = tuple[bytes, Mapping[bytes, bytes]]  # id and fields

_log = logging.getLogger("motia_redis.worker")

_ENTRIES = 128  # of one lane in one read
_TURN = 64  # entries to submit before other tasks of the loop run, counted by whole lanes: submitting calls conditions
_WATCH = 5000  # milliseconds that one blocking read waits
_PATIENCE = 0.02  # seconds to wait for room while handlers are busy, before waiting for other lanes
_PAUSES = (0.1, 1.0)  # seconds: first and longest pause while Redis is away


class Reader:
    """Hand on what is in the lanes, as far as there is room.

    One task reads and one waits for each group of lanes that one command can read: in a Cluster the lanes of one slot, else all.
    """

    def __init__(self, intake: Intake, router: Router) -> None:
        self._intake = intake
        self._router = router
        self._groups: dict[bytes, LaneGroup] = {}

    def start(self, lanes: Iterable[Lane], tasks: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Start reading the lanes whenever they are held."""
        for lane in lanes:
            lane.subscription.load.on_room = self.look_again
            self._groups.setdefault(self._group_name(lane), LaneGroup(self._intake, self._router)).lanes.append(lane)
        return [tasks.create_task(group.run()) for group in self._groups.values()]

    def look_again(self) -> None:
        """Look for lanes that can be read: there is room again, or lanes have changed."""
        for group in self._groups.values():
            group.changed.set()

    def mark_ready(self, lane: Lane) -> None:
        """Read a lane that was acquired, or that has entries to be read again."""
        group = self._groups[self._group_name(lane)]
        group.ready.setdefault(lane.subscription, {})[lane] = None
        group.changed.set()

    def mark_step_ready(self, subscription: Subscription) -> None:
        """Read all lanes of a step that are held: it was paused."""
        for group in self._groups.values():
            for lane in group.lanes:
                if lane.subscription is subscription and lane.tenure:
                    self.mark_ready(lane)

    def _group_name(self, lane: Lane) -> bytes:
        return lane.keys.leases if self._router.is_cluster else b""


@dataclass(slots=True)
class _Read:
    """One command that reads some lanes of one step, or one unfinished entry of a lane."""

    lanes: list[Lane]
    count: int  #: the most entries of each
    entry_id: str = ""  #: the unfinished entry

    @property
    def stream(self) -> bytes:
        return self.lanes[0].stream

    @property
    def command(self) -> tuple[Any, ...]:
        if self.entry_id:
            return "XRANGE", self.stream, self.entry_id, self.entry_id
        places = [lane.stream for lane in self.lanes] + [lane.read_to for lane in self.lanes]
        return "XREAD", "COUNT", self.count, "STREAMS", *places


class _Sent(NamedTuple):
    """Reads on their way."""

    reads: list[_Read]
    tenures: list[str]  #: by which their lanes were held when they were sent
    replies: asyncio.Task[list[Any]]


class _Arrived(NamedTuple):
    """Entries of one lane that were read and are not handed on yet. The load of the step counts them."""

    lane: Lane
    tenure: str
    entries: list[RawEntry]
    sizes: list[int]
    entry_id: str  #: of the unfinished entry that was to be read; "" if they follow the position

    @classmethod
    def of(cls, lane: Lane, entries: list[RawEntry], entry_id: str = "") -> _Arrived:
        """Count the entries."""
        sizes = [sum(map(len, fields.values())) for _, fields in entries]
        lane.subscription.load.hold(len(sizes), sum(sizes))
        return cls(lane, lane.tenure, entries, sizes, entry_id)


class _Watch(NamedTuple):
    """A read that waits for new entries."""

    places: dict[bytes, str]
    tenures: dict[Lane, str]  #: by which the lanes were held when it began
    limit: int  #: of entries of each stream


class LaneGroup:
    """The lanes that one command can read."""

    def __init__(self, intake: Intake, router: Router) -> None:
        self.lanes: list[Lane] = []
        self.ready: dict[Subscription, dict[Lane, None]] = {}  #: lanes that may have entries to read
        self.changed = asyncio.Event()
        self._intake = intake
        self._router = router
        self._sent: _Sent | None = None
        self._watch: _Watch | None = None
        self._watching: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Read until cancelled."""
        backoff = Backoff(*_PAUSES)
        try:
            while True:
                self.changed.clear()
                try:
                    self._sent = self._sent or self._send(())
                    if self._sent is None:
                        await self._wait()
                    else:
                        await self._receive(self._sent)
                        await asyncio.sleep(0)  # handlers first
                    backoff.reset()
                except (RedisError, OSError) as error:
                    if backoff.is_first:
                        outages.report(_log, "reading", error)
                    await backoff.sleep()
        finally:
            await self._stop_watching()
            if self._sent is not None:
                await _cancel(self._sent.replies)

    # -- reading ------------------------------------------------------------------------------------------------------

    def _send(self, arrived: Iterable[_Arrived]) -> _Sent | None:
        """Read from all ready lanes whose steps have room. Return None if there are none. `arrived` is not handed on yet."""
        reads = self._plan({each.lane for each in arrived if each.entry_id})
        if not reads:
            return None
        tenures = [lane.tenure for read in reads for lane in read.lanes]
        commands = [(read.stream, read.command) for read in reads]
        return _Sent(reads, tenures, asyncio.create_task(self._router.gather(commands, return_exceptions=True)))

    async def _receive(self, sent: _Sent) -> None:
        """Wait for the replies, send the next reads, and hand on what has arrived."""
        self._sent = None
        replies = await sent.replies
        tenures = iter(sent.tenures)
        failure = None
        arrived = []
        for read, reply in zip(sent.reads, replies, strict=True):
            for lane, tenure in [(lane, next(tenures)) for lane in read.lanes]:
                if isinstance(reply, Exception):
                    failure = reply
                elif lane.tenure == tenure and not lane.releasing:  # what was read under a tenure that ends is void
                    arrived.append(self._arrive(read, lane, reply))
        if failure is None:
            self._sent = self._send(arrived)
        await self._hand_on(arrived)
        if failure is not None:
            raise failure

    def _plan(self, busy: Container[Lane]) -> list[_Read]:
        """Divide the room of each step among its ready lanes, but for those whose unfinished entries are not handed on yet."""
        reads = []
        for subscription, ready in self.ready.items():
            for lane in [lane for lane in ready if not lane.is_readable]:
                del ready[lane]
            room, room_bytes = subscription.load.room, subscription.load.room_bytes
            together: dict[int, list[Lane]] = {}
            for lane in ready:
                if room <= 0 or room_bytes <= 0 or not lane.lease.is_valid():
                    break
                if lane in busy:
                    continue
                most = max(1, min(_ENTRIES, room // len(ready), room_bytes // max(1, lane.entry_bytes)))
                if lane.backlog:
                    count = min(most, len(lane.backlog))
                    reads += [_Read([lane], 1, entry_id) for entry_id in islice(lane.backlog, count)]
                else:
                    count = min(lane.batch, most)
                    together.setdefault(count, []).append(lane)
                room -= count
                room_bytes -= count * lane.entry_bytes
            reads += [_Read(lanes, count) for count, lanes in together.items()]
        return reads

    def _arrive(self, read: _Read, lane: Lane, reply: Any) -> _Arrived:
        """Take the entries of a lane out of a reply, and note how far the lane is read."""
        if read.entry_id:
            return _Arrived.of(lane, reply, read.entry_id)
        arrived = _Arrived.of(lane, reply.get(lane.stream, []))
        if len(arrived.entries) < read.count:
            self.ready[lane.subscription].pop(lane, None)
        elif read.count == lane.batch:
            lane.batch = min(lane.batch * 2, _ENTRIES)
        _note_read(arrived)
        return arrived

    async def _hand_on(self, arrived: Iterable[_Arrived]) -> None:
        """Submit entries, and let other tasks run between."""
        taken = 0
        for each in arrived:
            taken += self._submit(each)
            if taken >= _TURN:
                taken = 0
                await asyncio.sleep(0)

    def _submit(self, arrived: _Arrived) -> int:
        """Submit the entries of one lane, unless their tenure has ended. Return their number."""
        lane, sizes = arrived.lane, arrived.sizes
        taken = 0
        if (sizes or arrived.entry_id) and lane.tenure == arrived.tenure and not lane.releasing:
            if arrived.entry_id:
                taken = self._submit_unfinished(arrived)
            else:
                taken = len(sizes)
                for (raw_id, fields), size in zip(arrived.entries, sizes, strict=True):
                    lane.position = entry_id = raw_id.decode()
                    self._intake.submit(lane, entry_id, fields, size, listed=False)
            self._intake.on_progress(lane)
        lane.subscription.load.release(len(sizes), sum(sizes))  # the dispatcher counts those that it keeps
        return taken

    def _submit_unfinished(self, arrived: _Arrived) -> int:
        """Submit an unfinished entry, unless an earlier one of the lane could not be read. Return the number submitted."""
        lane = arrived.lane
        if not lane.backlog or lane.backlog[0] != arrived.entry_id:
            return 0
        lane.backlog.popleft()
        fields = arrived.entries[0][1] if arrived.entries else {}
        self._intake.submit(lane, arrived.entry_id, fields, sum(arrived.sizes), listed=True)
        return 1

    # -- waiting ------------------------------------------------------------------------------------------------------

    async def _wait(self) -> None:
        """Wait until the lanes change, a step has room, or a lane that was read to its end has a new entry, and take that."""
        if any(self.ready.values()):
            try:
                async with asyncio.timeout(_PATIENCE):
                    await self.changed.wait()
                    return
            except TimeoutError:
                pass
        wanted: dict[bytes, str] = {}
        tenures: dict[Lane, str] = {}
        count = _ENTRIES
        for lane in self.lanes:
            if lane.is_readable and lane not in self.ready.get(lane.subscription, ()):
                place = wanted.get(lane.stream)
                wanted[lane.stream] = lane.read_to if place is None else min(place, lane.read_to, key=order)
                tenures[lane] = lane.tenure
                lane.restart_batch()
                count = min(count, lane.batch)
        if self._watch is None or not wanted.items() <= self._watch.places.items():
            await self._stop_watching()
            if wanted:
                self._watch = _Watch(wanted, tenures, count)
                self._watching = asyncio.create_task(self._watch_once(self._watch))
        await self.changed.wait()
        if self._watching is not None and self._watching.done():
            watching, self._watch, self._watching = self._watching, None, None
            watching.result()

    async def _watch_once(self, watch: _Watch) -> None:
        """Wait once for new entries, and take them. Nothing waits between the reply and the handler's task."""
        command = ("XREAD", "COUNT", watch.limit, "BLOCK", _WATCH, "STREAMS", *watch.places, *watch.places.values())
        try:
            self._take_new(watch, await self._router.execute_blocking(next(iter(watch.places)), *command))
        finally:
            self.changed.set()

    def _take_new(self, watch: _Watch, found: Mapping[bytes, list[RawEntry]]) -> None:
        """Submit new entries, if they are few, of the lanes that were read up to their place. Mark other lanes ready."""
        are_few = sum(map(len, found.values())) <= _TURN
        for lane in self.lanes:
            entries = found.get(lane.stream)
            if not entries or not lane.is_readable:
                continue
            ready = self.ready.setdefault(lane.subscription, {})
            is_next = lane.tenure == watch.tenures.get(lane) and lane.read_to == watch.places[lane.stream] and lane not in ready
            if are_few and is_next and lane.lease.is_valid() and len(entries) <= lane.subscription.load.room:
                arrived = _Arrived.of(lane, entries)
                _note_read(arrived)
                self._submit(arrived)
                if len(entries) < watch.limit:
                    continue
            ready[lane] = None

    async def _stop_watching(self) -> None:
        """Cancel the wait. It only reads, so nothing is lost with its connection."""
        watching, self._watch, self._watching = self._watching, None, None
        if watching is not None:
            await _cancel(watching)


def _note_read(arrived: _Arrived) -> None:
    """Note how far a lane is read, and how large its entries are."""
    lane, sizes = arrived.lane, arrived.sizes
    if sizes:
        lane.read_to = arrived.entries[-1][0].decode()
        mean = sum(sizes) // len(sizes)
        lane.entry_bytes = max(mean, (lane.entry_bytes + mean) // 2)


async def _cancel(reading: asyncio.Task[Any]) -> None:
    """Cancel a read, and wait for its end."""
    reading.cancel()
    await asyncio.wait([reading])
    if not reading.cancelled():
        reading.exception()
