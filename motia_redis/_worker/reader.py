"""Read the lanes that this worker holds: pending entries first, then new ones. Wait for more without polling."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from motia_redis._transport.failures import ErrorReply
from motia_redis._worker.entries import StreamEntry, order

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from motia_redis._store.keyspace import Keyspace
    from motia_redis._transport.router import Router
    from motia_redis._worker.dispatcher import Dispatcher
    from motia_redis._worker.leases import Lane, Leases

_log = logging.getLogger(__name__)

#: All holders of a lane read under one consumer name, so that the next holder gets what is pending, in order.
CONSUMER = "worker"
_ENTRIES = 128  # of one lane in one read
_TURN = 64  # entries to submit before other tasks of the loop run, counted by whole lanes: submitting calls conditions
_WATCH = 5000  # milliseconds that one blocking read waits
_ROOM_PATIENCE = 0.02  # seconds to wait for room while handlers are busy, before waiting for other lanes
_RECONNECT = (0.1, 5.0)  # seconds: first and longest pause while Redis is away


class Reader:
    """Hands what is in the lanes to `deliveries`, as far as there is room.

    One connection reads and one waits, for any number of steps and lanes (in a Cluster one waits for each partition). `changed`
    is set when lanes have changed or there is room again.
    """

    def __init__(
        self,
        leases: Leases,
        dispatcher: Dispatcher,
        router: Router,
        keyspace: Keyspace,
        *,
        changed: asyncio.Event,
        restore_groups: Callable[[], Awaitable[None]],
    ) -> None:
        self._leases = leases
        self._deliveries = dispatcher
        self._router = router
        self._keyspace = keyspace
        self._restore_groups = restore_groups
        self._changed = changed
        self._idle: dict[bytes, IdleLanes] = {}
        self._failure: Exception | None = None  # of a watch

    async def run(self) -> None:
        """Read until cancelled."""
        pause = _RECONNECT[0]
        try:
            while True:
                self._changed.clear()
                try:
                    if await self._read():
                        await asyncio.sleep(0)  # handlers first
                    else:
                        await self._wait()
                    pause = _RECONNECT[0]
                except (RedisError, OSError) as error:
                    await self._recover(error, pause)
                    pause = min(pause * 2, _RECONNECT[1])
        finally:
            await self._stop_watching()

    async def _recover(self, error: Exception, pause: float) -> None:
        """Wait after an error of Redis. Create the consumer groups again if they are missing."""
        await self._stop_watching()
        if isinstance(error, ErrorReply) and error.code == "NOGROUP":
            _log.warning(
                "reading: consumer groups are missing (was Redis flushed?): creating them to read all entries from the start"
            )
            with suppress(RedisError, OSError):
                await self._restore_groups()
        else:
            _log.warning("reading: trying again in %.1f s: %s", pause, error)
        await asyncio.sleep(pause)
        for lane in self._leases.lanes.values():
            # The entries of a lost reply are pending now, beside those that this process handles.
            lane.position = "0"
            self._leases.mark_ready(lane)

    # -- reading ------------------------------------------------------------------------------------------------------

    async def _read(self) -> bool:
        """Read once from all ready lanes whose steps have room. Return whether there was any."""
        reads = self._plan() if self._leases.valid() else []
        if not reads:
            return False
        lanes = [lane for read in reads for lane in read.lanes]
        for lane in lanes:
            lane.reading = True
        try:
            replies = await self._router.gather([(read.lanes[0].stream, read.command) for read in reads], return_exceptions=True)
            finished: list[Lane] = []
            for read, reply in zip(reads, replies, strict=True):
                if not isinstance(reply, Exception):
                    finished += await self._take_read(read, reply)
            await self._begin_new(finished)
        finally:
            for lane in lanes:
                lane.reading = False
                if lane.is_drained:
                    self._leases.lane_drained()
        for reply in replies:
            if isinstance(reply, Exception):  # of one node: the entries of the other nodes are submitted
                raise reply
        return True

    def _plan(self) -> list[_Read]:
        """Divide the room of each step among its ready lanes."""
        reads = []
        for subscription, ready in self._leases.ready.items():
            room = subscription.load.room
            if not ready or not room:
                continue
            count = max(1, min(_ENTRIES, room // len(ready)))
            together: dict[bytes, list[Lane]] = {}
            for lane in ready:
                together.setdefault(self._command_group(lane.stream), []).append(lane)
            reads += [_Read(subscription.group, lanes, count) for lanes in together.values()]
        return reads

    async def _take_read(self, read: _Read, found: dict[bytes, list[tuple[bytes, Any]]]) -> list[Lane]:
        """Submit the entries of a read. Return the lanes that have no pending entry any more."""
        finished = []
        taken = 0
        for lane in read.lanes:
            entries = found.get(lane.stream, [])
            taken += len(entries)
            if taken >= _TURN:
                taken = 0
                await asyncio.sleep(0)
            if lane.position == ">":
                self._take_new(lane, entries, read.count)
            elif entries:
                await self._take_pending(lane, entries)
            else:
                finished.append(lane)
        return finished

    def _command_group(self, stream: bytes) -> bytes:
        """Return what streams have in common that one command can read: in a Cluster their slot."""
        return self._keyspace.leases(stream) if self._router.is_cluster else b""

    def _take_new(self, lane: Lane, entries: list[tuple[bytes, Any]], asked: int) -> None:
        if lane.revoked.is_set():  # the entries stay pending for the next holder
            return
        if entries:
            lane.last_read_id = entries[-1][0].decode()
        if len(entries) < asked:
            self._mark_idle(lane)
        for entry_id, fields in entries:
            self._deliveries.submit(lane, StreamEntry(lane.stream, entry_id.decode(), fields), attempts=0, suspect=False)

    async def _take_pending(self, lane: Lane, entries: list[tuple[bytes, Any]]) -> None:
        """Submit what the lane's last holder left pending, with the attempts made so far."""
        key: Any = self._keyspace.attempts(lane.stream, lane.subscription.group)
        fields: Any = [lane.attempts_field(entry_id.decode()) for entry_id, _ in entries]
        recorded: Any = await self._router.execute(key, "HMGET", key, *fields)
        lane.position = entries[-1][0].decode()
        if lane.revoked.is_set():
            return
        for (raw_id, content), attempts in zip(entries, recorded, strict=True):
            entry_id = raw_id.decode()
            if entry_id in lane.held:
                continue
            if content:
                entry = StreamEntry(lane.stream, entry_id, content)
                self._deliveries.submit(lane, entry, attempts=int(attempts or 0), suspect=lane.holder_crashed)
            else:
                self._deliveries.acknowledge_trimmed(lane, entry_id)

    async def _begin_new(self, lanes: list[Lane]) -> None:
        """Start to read new entries. Record where each stream ends now: a wait must not start earlier."""
        if not lanes:
            return
        streams = dict.fromkeys(lane.stream for lane in lanes)
        replies = await self._router.gather([(stream, ("XINFO STREAM", stream)) for stream in streams])
        ends = {stream: info["last-generated-id"].decode() for stream, info in zip(streams, replies, strict=True)}
        for lane in lanes:
            lane.position, lane.last_read_id, lane.holder_crashed = ">", ends[lane.stream], False

    # -- waiting ------------------------------------------------------------------------------------------------------

    def _mark_idle(self, lane: Lane) -> None:
        """Stop reading a lane until a wait reports a new entry."""
        del self._leases.ready[lane.subscription][lane]
        self._idle.setdefault(self._command_group(lane.stream), IdleLanes()).add(lane)

    async def _wait(self) -> None:
        """Wait until the lanes change, a step has room, or an idle lane has a new entry."""
        if any(self._leases.ready.values()):
            with suppress(TimeoutError):
                async with asyncio.timeout(_ROOM_PATIENCE):
                    await self._changed.wait()
                    return
        self._raise_failure()
        for idle in self._idle.values():
            if idle.is_unwatched:
                await idle.stop()
                idle.watch = asyncio.create_task(self._watch(idle))
                idle.is_unwatched = False
        await self._changed.wait()
        self._raise_failure()

    def _raise_failure(self) -> None:
        """Raise the error of a wait, if there was one."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    async def _watch(self, idle: IdleLanes) -> None:
        """Wait once for new entries in lanes that one command can read. Mark those lanes ready that have any."""
        seen = idle.last_read_id
        command = ("XREAD", "COUNT", 1, "BLOCK", _WATCH, "STREAMS", *seen, *seen.values())
        try:
            found = await self._router.execute_blocking(next(iter(seen)), *command)
            if not found:
                idle.forget_closing()
            for stream, entries in found.items():
                for lane in idle.wake(stream):
                    lane.last_read_id = max(lane.last_read_id, entries[0][0].decode(), key=order)
                    self._leases.mark_ready(lane)
        except Exception as error:  # noqa: BLE001  # raised to the task that waits
            self._failure = error
        idle.is_unwatched = bool(idle.lanes)
        self._changed.set()

    async def _stop_watching(self) -> None:
        idle, self._idle = self._idle, {}
        for lanes in idle.values():
            await lanes.stop()
        self._failure = None


@dataclass(slots=True)
class _Read:
    """One command that reads some lanes of one step."""

    group: str
    lanes: list[Lane]
    count: int  #: the most entries of each

    @property
    def command(self) -> tuple[Any, ...]:
        places = [lane.stream for lane in self.lanes] + [lane.position for lane in self.lanes]
        return "XREADGROUP", "GROUP", self.group, CONSUMER, "COUNT", self.count, "STREAMS", *places


class IdleLanes:
    """Lanes that were read to their end, and that one command can wait for.

    The wait for a stream starts after the last entry that all its lanes have read: no entry is missed in between.
    """

    def __init__(self) -> None:
        self.lanes: dict[bytes, list[Lane]] = {}  #: by stream
        self.last_read_id: dict[bytes, str] = {}  #: the id up to which all lanes of a stream have read
        self.watch: asyncio.Task[None] | None = None
        self.is_unwatched = False  #: a new wait has to replace the running one

    def add(self, lane: Lane) -> None:
        """Add a lane to the next wait."""
        lanes = self.lanes.setdefault(lane.stream, [])
        self.last_read_id[lane.stream] = (
            min(self.last_read_id[lane.stream], lane.last_read_id, key=order) if lanes else lane.last_read_id
        )
        lanes.append(lane)
        self.is_unwatched = True

    def wake(self, stream: bytes) -> list[Lane]:
        """Remove and return the lanes of a stream."""
        self.last_read_id.pop(stream, None)
        return self.lanes.pop(stream, [])

    def forget_closing(self) -> None:
        """Remove lanes that are revoked."""
        for stream, lanes in list(self.lanes.items()):
            held = [lane for lane in lanes if not lane.revoked.is_set()]
            if held:
                self.lanes[stream] = held
            else:
                self.wake(stream)

    async def stop(self) -> None:
        """Cancel the wait. It only reads, so nothing is lost with its connection."""
        if self.watch is not None:
            self.watch.cancel()
            await asyncio.wait([self.watch])
            self.watch = None
