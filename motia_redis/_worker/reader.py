"""Read the lanes that this worker holds and hand the entries on. Wait for more without polling. Reading changes nothing in Redis.

A lane is read from the position that its last holder had recorded: first the unfinished entries up to it, then what follows.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from motia_redis._store.entry_ids import order
from motia_redis._transport import outages
from motia_redis._transport.backoff import Backoff
from motia_redis._worker.entries import PreparedCall, StreamEntry
from motia_redis._worker.lanes import Delivery
from motia_redis._worker.matching import Candidate, MatchResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.manager import StateManager
    from motia_redis._transport.router import Router
    from motia_redis._worker.dispatcher import Dispatcher
    from motia_redis._worker.lanes import Lane
    from motia_redis._worker.subscriptions import Subscription

_log = logging.getLogger("motia_redis.worker")

_ENTRIES = 128  # of one lane in one read
_TURN = 64  # entries to submit before other tasks of the loop run, counted by whole lanes: submitting calls conditions
_WATCH = 5000  # milliseconds that one blocking read waits
_PATIENCE = 0.02  # seconds to wait for room while handlers are busy, before waiting for other lanes
_PAUSES = (0.1, 1.0)  # seconds: first and longest pause while Redis is away
_DECODED = 6  # approximate memory of an entry with decoded values, as a multiple of the size of its text


class Reader:
    """Hand what is in the lanes to the dispatcher, as far as there is room.

    One task reads and one waits for each group of lanes that one command can read: in a Cluster the lanes of one slot, else all.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        router: Router,
        keyspace: Keyspace,
        state: StateManager,
        *,
        on_progress: Callable[[Lane], None],
    ) -> None:
        self._dispatcher = dispatcher
        self.on_progress = on_progress  #: called with a lane that has progress to record
        self._router = router
        self._keyspace = keyspace
        self._state = state
        self._groups: dict[bytes, LaneGroup] = {}

    def start(self, lanes: Iterable[Lane], tasks: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Start reading the lanes whenever they are held."""
        for lane in lanes:
            lane.subscription.load.on_room = self.look_again
            self._groups.setdefault(self._group_name(lane), LaneGroup(self)).lanes.append(lane)
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

    # -- for the groups -----------------------------------------------------------------------------------------------

    async def read(self, reads: Sequence[_Read]) -> tuple[list[Any], list[str]]:
        """Send the reads and return their replies, and the tenures by which the lanes were held when the reads were sent."""
        tenures = [lane.tenure for read in reads for lane in read.lanes]
        commands = [(read.stream, read.command) for read in reads]
        return await self._router.gather(commands, return_exceptions=True), tenures

    async def watch(self, places: dict[bytes, str]) -> dict[bytes, Any]:
        """Wait until one of the streams has an entry after its place, and return one entry of each that has."""
        command = ("XREAD", "COUNT", 1, "BLOCK", _WATCH, "STREAMS", *places, *places.values())
        found: dict[bytes, Any] = await self._router.execute_blocking(next(iter(places)), *command)
        return found

    def submit(self, lane: Lane, entry_id: str, fields: Any, size: int, *, listed: bool) -> None:
        """Match an entry, and count it as finished, leave it to another version of the step, or queue it for its handler."""
        known = lane.known(entry_id)
        if known is None:
            lane.pass_by(entry_id)
            return
        if lane.running and (running := lane.running.get(entry_id)) is not None:
            # Its handler has gone on while this worker did not hold the lane.
            running.tenure, running.handed = lane.tenure, False
            lane.add(entry_id, running)
            return
        if not fields:
            _log.error("step %s: %s was trimmed before it was handled", lane.subscription.group, entry_id)
            lane.pass_by(entry_id)
            return
        subscription = lane.subscription
        entry = StreamEntry(lane.stream, entry_id, fields, lane.identity)
        suspect = lane.is_suspect(entry_id, listed=listed)
        match = subscription.matcher.match_when_read(entry, self._state)
        if match is MatchResult.FILTERED and any(wants.match(fields) for wants in lane.others):
            lane.add(entry_id, None)
            lane.left[entry_id] = None
            return
        is_unwanted = match is MatchResult.FILTERED or match is MatchResult.UNWANTED
        if is_unwanted and not entry.is_retry_for(subscription.group):
            lane.pass_by(entry_id)  # it needs no queue, and does not wait for its key
            return
        delivery = Delivery(lane, entry_id, entry, size, *known, suspect, is_unwanted, lane.tenure)
        if isinstance(match, Candidate):
            delivery.trigger = match
        elif isinstance(match, PreparedCall) and not delivery.attempts and not delivery.owner:
            delivery.call, delivery.trace = match, match.trace
            delivery.size *= _DECODED
        self._dispatcher.submit(delivery)


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
        places = [lane.stream for lane in self.lanes] + [lane.position for lane in self.lanes]
        return "XREAD", "COUNT", self.count, "STREAMS", *places


class LaneGroup:
    """The lanes that one command can read."""

    def __init__(self, reader: Reader) -> None:
        self.lanes: list[Lane] = []
        self.ready: dict[Subscription, dict[Lane, None]] = {}  #: lanes that may have entries to read
        self.changed = asyncio.Event()
        self._reader = reader
        self._watch: asyncio.Task[None] | None = None
        self._watched: dict[bytes, str] = {}

    async def run(self) -> None:
        """Read until cancelled."""
        backoff = Backoff(*_PAUSES)
        try:
            while True:
                self.changed.clear()
                try:
                    if await self._read():
                        await asyncio.sleep(0)  # handlers first
                    else:
                        await self._wait()
                    backoff.reset()
                except (RedisError, OSError) as error:
                    if backoff.is_first:
                        outages.report(_log, "reading", error)
                    await backoff.sleep()
        finally:
            await self._stop_watching()

    # -- reading ------------------------------------------------------------------------------------------------------

    async def _read(self) -> bool:
        """Read once from all ready lanes whose steps have room. Return whether there was any."""
        reads = self._plan()
        if not reads:
            return False
        replies, tenures = await self._reader.read(reads)
        held = iter(tenures)
        taken = 0
        failure = None
        for read, reply in zip(reads, replies, strict=True):
            for lane, tenure in [(lane, next(held)) for lane in read.lanes]:
                if isinstance(reply, Exception):
                    failure = reply
                    continue
                if lane.tenure != tenure or lane.releasing:
                    continue  # what was read under a tenure that ends is void
                taken += self._take(read, lane, reply)
                if taken >= _TURN:
                    taken = 0
                    await asyncio.sleep(0)
        if failure is not None:
            raise failure
        return True

    def _plan(self) -> list[_Read]:
        """Divide the room of each step among its ready lanes."""
        reads = []
        for subscription, ready in self.ready.items():
            for lane in [lane for lane in ready if not lane.is_readable]:
                del ready[lane]
            room, room_bytes = subscription.load.room, subscription.load.room_bytes
            together: dict[int, list[Lane]] = {}
            for lane in ready:
                if room <= 0 or room_bytes <= 0 or not lane.lease.is_valid():
                    break
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

    def _take(self, read: _Read, lane: Lane, reply: Any) -> int:
        """Submit the entries of a read. Return their number."""
        if read.entry_id:
            return self._take_backlog(read.entry_id, lane, reply)
        entries = reply.get(lane.stream, [])
        if len(entries) < read.count:
            self.ready[lane.subscription].pop(lane, None)
        elif read.count == lane.batch:
            lane.batch = min(lane.batch * 2, _ENTRIES)
        total = 0
        for raw_id, fields in entries:
            lane.position = entry_id = raw_id.decode()
            size = sum(map(len, fields.values()))
            total += size
            self._reader.submit(lane, entry_id, fields, size, listed=False)
        if entries:
            mean = total // len(entries)
            lane.entry_bytes = max(mean, (lane.entry_bytes + mean) // 2)
            self._reader.on_progress(lane)
        return len(entries)

    def _take_backlog(self, entry_id: str, lane: Lane, reply: list[tuple[bytes, Any]]) -> int:
        """Submit an unfinished entry, unless an earlier one of the lane could not be read. Return the number submitted."""
        if not lane.backlog or lane.backlog[0] != entry_id:
            return 0
        lane.backlog.popleft()
        fields = reply[0][1] if reply else {}
        self._reader.submit(lane, entry_id, fields, sum(map(len, fields.values())), listed=True)
        self._reader.on_progress(lane)
        return 1

    # -- waiting ------------------------------------------------------------------------------------------------------

    async def _wait(self) -> None:
        """Wait until the lanes change, a step has room, or a lane that was read to its end has a new entry."""
        if any(self.ready.values()):
            try:
                async with asyncio.timeout(_PATIENCE):
                    await self.changed.wait()
                    return
            except TimeoutError:
                pass
        wanted: dict[bytes, str] = {}
        for lane in self.lanes:
            if lane.is_readable and lane not in self.ready.get(lane.subscription, ()):
                place = wanted.get(lane.stream)
                wanted[lane.stream] = lane.position if place is None else min(place, lane.position, key=order)
        if self._watch is None or not wanted.items() <= self._watched.items():
            await self._stop_watching()
            if wanted:
                self._watched = wanted
                self._watch = asyncio.create_task(self._watch_once(wanted))
        await self.changed.wait()
        if self._watch is not None and self._watch.done():
            watch, self._watch = self._watch, None
            watch.result()

    async def _watch_once(self, places: dict[bytes, str]) -> None:
        """Wait once for new entries. Mark those lanes ready that have any."""
        try:
            found = await self._reader.watch(places)
            for lane in self.lanes:
                if lane.stream in found and lane.is_readable:
                    lane.restart_batch()
                    self.ready.setdefault(lane.subscription, {})[lane] = None
        finally:
            self.changed.set()

    async def _stop_watching(self) -> None:
        """Cancel the wait. It only reads, so nothing is lost with its connection."""
        watch, self._watch, self._watched = self._watch, None, {}
        if watch is not None:
            watch.cancel()
            await asyncio.wait([watch])
            if not watch.cancelled():
                watch.exception()
