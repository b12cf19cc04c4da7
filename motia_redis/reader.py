"""Reading the lanes that this worker holds: what is pending first, then what is new; and waiting for more without polling."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError, ResponseError

from motia_redis.deliveries import attempts_field
from motia_redis.subscriptions import StreamEntry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from motia_redis.deliveries import Deliveries
    from motia_redis.keyspace import Keyspace
    from motia_redis.leases import Lane, Leases
    from motia_redis.nodes import Nodes

_log = logging.getLogger(__name__)

#: All holders of a lane read under one name, so that the next one finds what the last one left, in order.
CONSUMER = "worker"
_ENTRIES = 128  # of one lane in one read
_WATCH = 5000  # milliseconds that one wait for new entries lasts
_SETTLE = 0.02  # seconds in which room is expected while handlers are busy, before waiting for other lanes
_RECONNECT = (0.1, 5.0)  # seconds: first and longest pause while Redis is away


class Reader:
    """Hands what is in the lanes to `deliveries`, as far as there is room.

    One connection reads and one waits, for any number of steps and lanes (in a Cluster one waits for each partition). `changed`
    is set when lanes have changed or there is room again.
    """

    def __init__(
        self,
        leases: Leases,
        deliveries: Deliveries,
        nodes: Nodes,
        keyspace: Keyspace,
        *,
        changed: asyncio.Event,
        restore_groups: Callable[[], Awaitable[None]],
    ) -> None:
        self._leases = leases
        self._deliveries = deliveries
        self._nodes = nodes
        self._keyspace = keyspace
        self._restore_groups = restore_groups
        self._changed = changed
        self._watches: dict[bytes, _Watch] = {}
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
        """Wait, after an error of Redis; put back the groups if they are what is missing."""
        await self._stop_watching()
        if isinstance(error, ResponseError) and "NOGROUP" in str(error):
            _log.warning("reading: consumer groups are gone (was Redis emptied?); making them anew, to read all there is")
            with suppress(RedisError, OSError):
                await self._restore_groups()
        else:
            _log.warning("reading: trying again in %.1f s: %s", pause, error)
        await asyncio.sleep(pause)
        for lane in self._leases.lanes.values():
            # A reply that got lost may have held entries: they are pending now, beside those that are being handled here.
            lane.ready, lane.position = True, "0"

    # -- reading ------------------------------------------------------------------------------------------------------

    async def _read(self) -> bool:
        """Read once from all lanes that may have something and whose steps have room; return whether there was any."""
        chosen: dict[tuple[str, bytes], list[Lane]] = {}
        lanes_of: Counter[str] = Counter()
        for lane in self._leases.lanes.values():
            if lane.ready and not lane.closing.is_set() and self._deliveries.room(lane.subscription):
                chosen.setdefault((lane.subscription.group, self._together(lane.stream)), []).append(lane)
                lanes_of[lane.subscription.group] += 1
        if not chosen or not self._leases.valid():
            return False
        calls: list[Any] = []
        counts = []
        for (group, _), lanes in chosen.items():
            counts.append(max(1, min(_ENTRIES, self._deliveries.room(lanes[0].subscription) // lanes_of[group])))
            places = [lane.stream for lane in lanes] + [lane.position for lane in lanes]
            command = ("XREADGROUP", "GROUP", group, CONSUMER, "COUNT", counts[-1], "STREAMS", *places)
            calls.append((lanes[0].stream, command))
        replies = await self._nodes.run_each(calls)
        finished: list[Lane] = []
        for lanes, count, reply in zip(chosen.values(), counts, replies, strict=True):
            if isinstance(reply, Exception):
                continue
            found = _by_stream(reply)
            for lane in lanes:
                entries = found.get(lane.stream, [])
                if lane.position == ">":
                    self._take_new(lane, entries, count)
                elif entries:
                    await self._take_pending(lane, entries)
                else:
                    finished.append(lane)
        await self._turn_to_new(finished)
        for reply in replies:
            if isinstance(reply, Exception):  # of one node: what the others gave is taken
                raise reply
        return True

    def _together(self, stream: bytes) -> bytes:
        """Return what streams must share to be read by one command: in a Cluster their slot."""
        return self._keyspace.leases(stream) if self._nodes.is_cluster else b""

    def _take_new(self, lane: Lane, entries: list[tuple[bytes, Any]], asked: int) -> None:
        lane.ready = len(entries) >= asked
        if entries:
            lane.seen = entries[-1][0].decode()
        if not lane.closing.is_set():  # else they stay pending for its next holder
            for entry_id, fields in entries:
                self._deliveries.submit(lane, StreamEntry(lane.stream, entry_id.decode(), fields), attempts=0, suspect=False)

    async def _take_pending(self, lane: Lane, entries: list[tuple[bytes, Any]]) -> None:
        """Take what the lane's last holder left, with the attempts that were made."""
        key: Any = self._keyspace.attempts(lane.stream, lane.subscription.group)
        fields: Any = [attempts_field(lane, entry_id.decode()) for entry_id, _ in entries]
        recorded: Any = await self._nodes.run(key, "HMGET", key, *fields)
        lane.position = entries[-1][0].decode()
        if lane.closing.is_set():
            return
        for (raw_id, content), attempts in zip(entries, recorded, strict=True):
            entry_id = raw_id.decode()
            if entry_id in lane.held:
                continue
            if content:
                entry = StreamEntry(lane.stream, entry_id, content)
                self._deliveries.submit(lane, entry, attempts=int(attempts or 0), suspect=lane.crashed)
            else:
                self._deliveries.acknowledge_trimmed(lane, entry_id)

    async def _turn_to_new(self, lanes: list[Lane]) -> None:
        """Begin to read new entries; remember where the stream ends now, since a wait must not start earlier."""
        if not lanes:
            return
        replies = await self._nodes.run_all([(lane.stream, ("XINFO STREAM", lane.stream)) for lane in lanes])
        for lane, info in zip(lanes, replies, strict=True):
            lane.position, lane.seen, lane.crashed = ">", info["last-generated-id"].decode(), False

    # -- waiting ------------------------------------------------------------------------------------------------------

    async def _wait(self) -> None:
        """Wait until a lane has changed, a step has room, or there are new entries in a lane that was read to its end.

        A stream's wait starts behind the last entry that all its lanes here have read, so none falls between reading and waiting.
        """
        lanes = [lane for lane in self._leases.lanes.values() if not lane.closing.is_set()]
        if any(lane.ready for lane in lanes):
            with suppress(TimeoutError):
                async with asyncio.timeout(_SETTLE):
                    await self._changed.wait()
                    return
        idle: dict[bytes, set[Lane]] = {}
        for lane in lanes:
            if not lane.ready:
                idle.setdefault(self._together(lane.stream), set()).add(lane)
        for together, wanted in idle.items():
            watch = self._watches.get(together)
            if watch is None or wanted - watch.lanes:
                if watch is not None:
                    await _end(watch)
                self._watches[together] = _Watch(wanted, asyncio.create_task(self._watch(together, wanted)))
        await self._changed.wait()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    async def _watch(self, together: bytes, lanes: set[Lane]) -> None:
        """Wait once for new entries in lanes that one command can read, and mark those that have any."""
        by_stream: dict[bytes, list[Lane]] = {}
        for lane in lanes:
            by_stream.setdefault(lane.stream, []).append(lane)
        positions = {stream: min((lane.seen for lane in lanes), key=_order) for stream, lanes in by_stream.items()}
        try:
            for stream, entries in _by_stream(await self._wait_for(positions)).items():
                for lane in by_stream[stream]:
                    lane.ready = True
                    lane.seen = max(lane.seen, entries[0][0].decode(), key=_order)
        except Exception as error:  # noqa: BLE001  # for whoever waits
            self._failure = error
        del self._watches[together]
        self._changed.set()

    async def _wait_for(self, positions: dict[bytes, str]) -> Any:
        command = ("XREAD", "COUNT", 1, "BLOCK", _WATCH, "STREAMS", *positions, *positions.values())
        return await self._nodes.run_blocking(next(iter(positions)), *command)

    async def _stop_watching(self) -> None:
        watches, self._watches = self._watches, {}
        for watch in watches.values():
            await _end(watch)
        self._failure = None


@dataclass(frozen=True, slots=True)
class _Watch:
    """A wait for new entries in some lanes."""

    lanes: set[Lane]
    task: asyncio.Task[None]


async def _end(watch: _Watch) -> None:
    """Cut a wait off; it only reads, so nothing is lost with its connection."""
    watch.task.cancel()
    await asyncio.wait([watch.task])


def _by_stream(reply: Any) -> dict[bytes, list[tuple[bytes, Any]]]:
    """Return the entries of a read by stream, whichever protocol the reply came in."""
    pairs = reply.items() if isinstance(reply, dict) else reply or []
    return {stream: entries[0] if entries and isinstance(entries[0], list) else entries for stream, entries in pairs}


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)
