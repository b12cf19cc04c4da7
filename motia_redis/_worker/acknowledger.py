"""Acknowledge handled entries in batches."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from motia_redis._scripts import delivery as scripts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from motia_redis._store.keyspace import Keyspace
    from motia_redis._transport.router import Router
    from motia_redis._worker.inflight import Delivery, Inflight
    from motia_redis._worker.leases import Lane, Leases

_log = logging.getLogger(__name__)

_AT_ONCE = 1000  # entries that one script acknowledges
_RECONNECT = (0.1, 5.0)  # seconds: first and longest pause while Redis is away


class Acknowledger:
    """Acknowledge handled entries in batches: what is handled during one round trip goes with the next one."""

    def __init__(self, leases: Leases, inflight: Inflight, router: Router, keyspace: Keyspace) -> None:
        self._leases = leases
        self._inflight = inflight
        self._router = router
        self._keyspace = keyspace
        self._done: dict[Lane, list[Delivery]] = {}
        self._any = asyncio.Event()

    def add(self, lane: Lane, delivery: Delivery) -> None:
        """Have an entry acknowledged with the next round trip."""
        waiting = self._done.get(lane)
        if waiting is None:
            self._done[lane] = [delivery]
            self._any.set()
        else:
            waiting.append(delivery)

    async def run(self) -> None:
        """Acknowledge until cancelled."""
        pause = _RECONNECT[0]
        while True:
            await self._any.wait()
            self._any.clear()
            done, self._done = self._done, {}
            try:
                await self._send(done)
                pause = _RECONNECT[0]
            except (RedisError, OSError) as error:
                _log.warning("acknowledging: trying again in %.1f s: %s", pause, error)
                for lane, deliveries in done.items():
                    self._done[lane] = deliveries + self._done.get(lane, [])
                self._any.set()
                await asyncio.sleep(pause)
                pause = min(pause * 2, _RECONNECT[1])

    async def _send(self, done: Mapping[Lane, list[Delivery]]) -> None:
        accepted = await scripts.acknowledge(self._router, self._calls(done))
        for lane, deliveries in done.items():
            self._inflight.remove(lane, deliveries)
        if not all(accepted) and self._leases.worker:
            _log.warning("worker %s: an acknowledgement was refused: the lane has another holder", self._leases.worker)
            self._leases.drop_all()

    def _calls(self, done: Mapping[Lane, list[Delivery]]) -> list[scripts.Acknowledgement]:
        """Return the calls of the script: lanes of one partition together, up to the entries that one call may acknowledge."""
        calls: list[scripts.Acknowledgement] = []
        filling: dict[bytes, tuple[list[scripts.LaneEntries], int]] = {}
        for lane, deliveries in done.items():
            group = lane.subscription.group
            leases, attempts = self._keyspace.leases(lane.stream), self._keyspace.attempts(lane.stream, group)
            ids = [delivery.id for delivery in deliveries]
            for at in range(0, len(ids), _AT_ONCE):
                some = ids[at : at + _AT_ONCE]
                lanes, size = filling.get(leases, ([], _AT_ONCE))
                if size + len(some) > _AT_ONCE:
                    lanes, size = [], 0
                    calls.append(scripts.Acknowledgement(leases, self._leases.worker, lanes))
                lanes.append(scripts.LaneEntries(lane.stream, attempts, lane.name, group, some))
                filling[leases] = lanes, size + len(some)
        return calls
