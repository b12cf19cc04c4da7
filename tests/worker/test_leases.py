"""Leases: one holder for each lane, an even and stable assignment, and acknowledgements only by the holder."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis._scripts import delivery
from motia_redis._worker.leases import assign, lane_name
from tests.support.waiting import until

if TYPE_CHECKING:
    from motia_redis import StateManager
    from motia_redis._transport.router import Router

LANES = [lane_name("Step", b"{motia:%d}:events:%d" % (partition, lane)) for partition in range(16) for lane in range(8)]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50, 200])
def test_lanes_spread_evenly(count: int) -> None:
    workers = [f"worker{number}" for number in range(count)]
    owners = list(assign(LANES, workers).values())
    loads = [owners.count(worker) for worker in workers]
    assert sum(loads) == len(LANES)
    assert max(loads) <= -(-len(LANES) // count)


def test_all_workers_compute_the_same_assignment() -> None:
    workers = ["a", "b", "c"]
    assert assign(LANES, workers) == assign(reversed(LANES), workers)
    assert assign(LANES, []) == {}


def test_few_lanes_move_when_a_worker_joins_or_leaves() -> None:
    before = assign(LANES, ["a", "b", "c"])
    after = assign(LANES, ["a", "b", "c", "d"])
    moved = [name for name in LANES if before[name] != after[name]]
    assert len(moved) <= len(LANES) // 2
    assert assign(LANES, ["a", "b", "c"]) == before


class Guard:
    """Call the lease scripts for one lane with given worker ids."""

    def __init__(self, router: Router, namespace: str) -> None:
        self.router = router
        tag = f"{{{namespace}:0}}:"
        self.leases, self.stream = (tag + "leases").encode(), (tag + "events:0").encode()
        self.attempts, self.dead = (tag + "attempts:Step").encode(), (tag + "dead:Step").encode()
        self.lane = lane_name("Step", self.stream)

    async def renew(self, worker: str, ttl: int, *, begin: bool = False) -> bool:
        (valid,) = await delivery.renew_leases(self.router, [self.leases], worker=worker, ttl_ms=ttl, begin=begin)
        return valid

    async def acquire(self, worker: str) -> delivery.Outcome:
        lanes = [delivery.PartitionLanes(self.leases, [self.lane])]
        ((outcome,),) = await delivery.acquire_lanes(self.router, lanes, worker=worker)
        return outcome

    async def release(self, worker: str) -> int:
        lanes = [delivery.PartitionLanes(self.leases, [self.lane])]
        (released,) = await delivery.release_lanes(self.router, lanes, worker=worker)
        return released

    async def acknowledge(self, worker: str, entry_id: bytes) -> bool:
        entries = delivery.LaneEntries(self.stream, self.attempts, self.lane, "Step", [entry_id])
        (accepted,) = await delivery.acknowledge(self.router, [delivery.Acknowledgement(self.leases, worker, [entries])])
        return accepted

    async def dead_letter(self, worker: str, entry_id: bytes) -> bool:
        return await delivery.dead_letter(
            self.router,
            leases=self.leases,
            stream=self.stream,
            recorded=self.attempts,
            dead=self.dead,
            worker=worker,
            lane=self.lane,
            group="Step",
            entry_id=entry_id,
            error_type="ValueError",
            error_text=b"text",
            attempts=3,
        )

    async def deliver(self) -> bytes:
        """Append an entry and read it for the group; return its id."""
        await self.router.execute(self.stream, "XGROUP CREATE", self.stream, "Step", "0", "MKSTREAM")
        entry_id = await self.router.execute(self.stream, "XADD", self.stream, "*", "type", "x")
        await self.router.execute(self.stream, "XREADGROUP", "GROUP", "Step", "worker", "STREAMS", self.stream, ">")
        return entry_id

    async def pending(self) -> int:
        return (await self.router.execute(self.stream, "XPENDING", self.stream, "Step"))[0]

    async def expired(self, worker: str) -> bool:
        return await self.renew(worker, 10_000) == 0


@pytest.fixture
async def guard(state: StateManager, namespace: str) -> Any:
    router = await state.open_router()
    yield Guard(router, namespace)
    await router.aclose()


async def test_lane_has_one_holder(guard: Guard) -> None:
    for worker in ("one", "two"):
        await guard.renew(worker, 10_000, begin=True)
    assert await guard.acquire("one") == "free"
    assert await guard.acquire("two") == ""
    assert await guard.acquire("one") == "held"
    assert await guard.release("two") == 0
    assert await guard.release("one") == 1
    assert await guard.acquire("two") == "free", "handed over, not taken from the dead"


async def test_lane_moves_only_after_its_lease_expired(guard: Guard) -> None:
    await guard.renew("one", 150, begin=True)
    await guard.renew("two", 10_000, begin=True)
    assert await guard.acquire("one") == "free"
    assert await guard.acquire("two") == ""

    async def taken() -> bool:
        return await guard.acquire("two") == "dead"

    await until(taken, "the lease runs out")
    assert not await guard.renew("one", 10_000), "what ran out does not come to life again"
    assert await guard.acquire("one") == ""


async def test_dead_workers_are_removed(guard: Guard) -> None:
    await guard.renew("one", 20, begin=True)
    await asyncio.sleep(0.05)
    await guard.renew("two", 10_000, begin=True)
    assert list(await guard.router.execute(guard.leases, "HGETALL", guard.leases)) == [b"worker two"]


async def test_worker_without_the_lease_can_neither_acknowledge_nor_dead_letter(guard: Guard) -> None:
    entry_id = await guard.deliver()
    await guard.renew("one", 100, begin=True)
    await guard.acquire("one")
    await asyncio.sleep(0.15)
    for attempt in (guard.acknowledge, guard.dead_letter):
        assert await attempt("one", entry_id) == 0, "its time is over, though nobody took the lane yet"
    await guard.renew("two", 10_000, begin=True)
    assert await guard.acquire("two") == "dead"
    for attempt in (guard.acknowledge, guard.dead_letter):
        assert await attempt("one", entry_id) == 0
    assert await guard.pending() == 1
    assert await guard.acknowledge("two", entry_id)
    assert await guard.pending() == 0


async def test_dead_letter_is_moved_atomically(guard: Guard) -> None:
    entry_id = await guard.deliver()
    await guard.renew("one", 10_000, begin=True)
    await guard.acquire("one")
    await guard.router.execute(guard.dead, "SET", guard.dead, "not a stream")
    with pytest.raises(Exception, match="WRONGTYPE"):
        await guard.dead_letter("one", entry_id)
    assert await guard.pending() == 1
    await guard.router.execute(guard.dead, "DEL", guard.dead)
    assert await guard.dead_letter("one", entry_id)
    assert await guard.dead_letter("one", entry_id), "a second call changes nothing"
    assert await guard.router.execute(guard.dead, "XLEN", guard.dead) == 1
    assert await guard.pending() == 0
