"""Leases: one holder for each lane, and progress only by its holder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from motia_redis._scripts import administration, delivery
from motia_redis._scripts.administration import LanePlace
from motia_redis._scripts.delivery import Acquired, Busy, Kept, LaneKeys, Missing, Moved, Progress, Taken, Wanted
from motia_redis._worker.lanes import lane_name
from tests.support.waiting import until

if TYPE_CHECKING:
    from motia_redis import StateManager
    from motia_redis._transport.router import Router


class Guard:
    """Call the scripts of one lane with given worker ids and tenures."""

    def __init__(self, router: Router, namespace: str) -> None:
        self.router = router
        tag = f"{{{namespace}:0}}:".encode()
        stream = tag + b"events:0"
        self.keys = LaneKeys(tag + b"leases", stream, tag + b"entries:Step:events:0", lane_name("Step", stream), "Step")
        self.dead, self.trimmed = tag + b"dead:Step", tag + b"trimmed"

    async def create(self, count: int = 0) -> list[str]:
        """Create the group, and append entries; return their ids."""
        await delivery.create_group(self.router, [(self.keys, "end")])
        ids = [await self.router.execute(self.keys.stream, "XADD", self.keys.stream, "*", "type", "x") for _ in range(count)]
        return [entry_id.decode() for entry_id in ids]

    async def renew(self, worker: str, ttl: int = 10_000) -> bool:
        return await delivery.renew_lease(self.router, self.keys.leases, worker=worker, ttl_ms=ttl)

    async def acquire(self, worker: str, tenure: str = "1", claim: Any = "") -> Acquired:
        (outcome,) = await delivery.acquire_lanes(self.router, [Wanted(self.keys, tenure, claim)], worker=worker)
        return outcome

    async def progress(self, worker: str, tenure: str = "1", mark: str = "", release: bool = False, **changes: Any) -> str:
        step = Progress(self.keys, tenure, release, mark, changes.get("position", ""), changes.get("written", ()), ())
        (outcome,) = await delivery.progress(self.router, [step], worker=worker)
        return outcome

    async def settle(self, worker: str, entry_id: str, value: str, tenure: str = "1") -> bool | None:
        return await delivery.settle_entry(self.router, self.keys, worker=worker, tenure=tenure, entry_id=entry_id, value=value)

    async def dead_letter(self, worker: str, entry_id: str, tenure: str = "1") -> str | None:
        return await delivery.dead_letter(
            self.router,
            self.keys,
            dead=self.dead,
            trimmed=self.trimmed,
            limits=b"100:1000000",
            worker=worker,
            tenure=tenure,
            entry_id=entry_id,
            error_type="ValueError",
            error_text="text",
            traceback="trace",
            trace_id="ab" * 16,
            attempts=3,
        )

    async def mark(self) -> str:
        (group,) = await self.router.execute(self.keys.stream, "XINFO", "GROUPS", self.keys.stream)
        return group[b"last-delivered-id"].decode()

    async def has_run_out(self) -> bool:
        """Return whether the lease of the worker "one" has run out, by the clock of the server."""
        seconds, microseconds = await self.router.execute(self.keys.leases, "TIME")
        ends = await self.router.execute(self.keys.leases, "HGET", self.keys.leases, "worker one")
        return int(ends) < int(seconds) * 1000 + int(microseconds) // 1000

    async def known(self) -> dict[str, str]:
        fields = await self.router.execute(self.keys.entries, "HGETALL", self.keys.entries)
        return {name.decode(): value.decode() for name, value in fields.items()}


@pytest.fixture
async def guard(state: StateManager, namespace: str) -> Any:
    router = await state.open_router()
    yield Guard(router, namespace)
    await router.aclose()


async def test_lane_has_one_holder(guard: Guard) -> None:
    await guard.create()
    for worker in ("one", "two"):
        await guard.renew(worker)
    assert isinstance(await guard.acquire("one"), Taken)
    refused = await guard.acquire("two")
    assert isinstance(refused, Busy)
    assert (refused.holder, refused.tenure) == ("one", "1")
    assert isinstance(await guard.acquire("one"), Kept)
    assert await guard.progress("two", release=True) == "lost"
    assert await guard.progress("one", release=True) == "ok"
    assert isinstance(await guard.acquire("one", claim="check"), Busy), "a look takes nothing"
    taken = await guard.acquire("two")
    assert isinstance(taken, Taken)
    assert not taken.holder_crashed, "released, not taken from the dead"


async def test_lane_moves_only_from_the_lease_that_was_seen_to_end(guard: Guard) -> None:
    await guard.create()
    await guard.renew("one", 20)
    await guard.acquire("one")
    await guard.renew("two")
    await until(guard.has_run_out, "the lease of the first worker has run out")
    seen = await guard.acquire("two")
    assert isinstance(seen, Busy), "a lease that has run out is not enough: the server's clock may have jumped"
    claim = b"%b\n%b\n%b" % (seen.holder.encode(), seen.tenure.encode(), seen.lease)
    assert not await guard.renew("one"), "it had run out"
    assert isinstance(await guard.acquire("two", claim=claim), Busy), "the holder lives, and has renewed its lease"
    assert isinstance(await guard.acquire("one", claim="check"), Kept), "nobody took the lane"
    await guard.renew("one", 20)
    seen = await guard.acquire("two")
    assert isinstance(seen, Busy)
    claim = b"%b\n%b\n%b" % (seen.holder.encode(), seen.tenure.encode(), seen.lease)
    taken = await guard.acquire("two", claim=claim)
    assert isinstance(taken, Taken)
    assert taken.holder_crashed
    assert isinstance(await guard.acquire("one", claim="check"), Busy)


async def test_group_that_is_gone_is_reported_and_not_acquired(guard: Guard) -> None:
    await guard.renew("one")
    assert isinstance(await guard.acquire("one"), Missing)
    (entry,) = await guard.create(1)
    await guard.acquire("one")
    await guard.router.execute(guard.keys.stream, "XGROUP", "DESTROY", guard.keys.stream, "Step")
    assert await guard.progress("one", mark=entry) == "missing"


async def test_worker_that_lost_the_lane_can_record_nothing(guard: Guard) -> None:
    first, second = await guard.create(2)
    await guard.renew("one", 20)
    await guard.acquire("one")
    seen = await guard.acquire("two")
    assert isinstance(seen, Busy)
    await guard.acquire("two", "7", b"%b\n%b\n%b" % (seen.holder.encode(), seen.tenure.encode(), seen.lease))
    before = await guard.mark()
    assert await guard.progress("one", mark=second) == "lost"
    assert not await guard.settle("one", first, "1:0:")
    assert await guard.dead_letter("one", first) is None
    assert await guard.mark() == before
    assert await guard.known() == {}
    assert await guard.progress("two", "7", mark=first) == "ok"
    assert await guard.mark() == first


async def test_late_progress_of_an_earlier_tenure_changes_nothing(guard: Guard) -> None:
    first, second = await guard.create(2)
    await guard.renew("one")
    await guard.acquire("one", "1")
    await guard.progress("one", "1", release=True)
    await guard.acquire("one", "2")
    await guard.progress("one", "2", mark=second)
    assert await guard.progress("one", "1", mark=first, written=[(first, "0:0:")]) == "lost"
    assert await guard.mark() == second
    assert await guard.known() == {}


async def test_entry_that_still_runs_is_settled_by_the_worker_that_runs_it(guard: Guard) -> None:
    first, second = await guard.create(2)
    await guard.renew("one")
    await guard.acquire("one")
    await guard.progress("one", release=True, position=second, written=[(first, "1:0:one")])
    taken = await guard.acquire("two")
    assert isinstance(taken, Taken)
    assert taken.known == {"position": second.encode(), first: b"1:0:one"}
    assert not await guard.settle("three", first, "", tenure="")
    assert await guard.settle("one", first, "", tenure="")
    assert await guard.known() == {"position": second}
    assert not await guard.settle("one", first, "9:0:", tenure=""), "it is settled once"


async def test_workers_that_ended_long_ago_are_removed(guard: Guard) -> None:
    await guard.router.execute(guard.keys.leases, "HSET", guard.keys.leases, "worker gone", "1000")
    await delivery.renew_lease(guard.router, guard.keys.leases, worker="one", ttl_ms=1000, first=True)
    assert list(await guard.router.execute(guard.keys.leases, "HGETALL", guard.keys.leases)) == [b"worker one"]


async def test_dead_letter_is_moved_atomically(guard: Guard) -> None:
    (entry_id,) = await guard.create(1)
    await guard.renew("one")
    await guard.acquire("one")
    await guard.router.execute(guard.dead, "SET", guard.dead, "not a stream")
    with pytest.raises(Exception, match="WRONGTYPE"):
        await guard.dead_letter("one", entry_id)
    assert await guard.known() == {}
    await guard.router.execute(guard.dead, "DEL", guard.dead)
    assert await guard.dead_letter("one", entry_id)
    assert await guard.dead_letter("one", entry_id) == "", "a second call changes nothing"
    assert await guard.router.execute(guard.dead, "XLEN", guard.dead) == 1
    assert await guard.known() == {entry_id: "done"}


async def test_holder_of_a_moved_lane_keeps_it_but_can_record_nothing(guard: Guard) -> None:
    first, second = await guard.create(2)
    await guard.renew("one")
    assert isinstance(await guard.acquire("one"), Taken)
    assert await guard.progress("one", mark=second) == "ok"
    lanes = [LanePlace(guard.keys.stream, guard.keys.entries, "Step")]
    ((moved, _),) = await administration.seek_step(
        guard.router, [(guard.keys.leases, lanes)], target=first, policy="keep", mode="move"
    )
    assert moved
    assert await guard.mark() == first
    assert await guard.progress("one", mark=second) == "lost"
    assert await guard.settle("one", second, "1:0:") is None
    assert await guard.mark() == first
    assert not await guard.renew("one"), "it learns so by the renewal of its lease"
    assert await guard.renew("one"), "once"
    assert isinstance(await guard.acquire("two", "7", "moved"), Busy)
    assert isinstance(await guard.acquire("two", "7"), Busy)
    assert await guard.acquire("one", "1", "check") == Moved()
    assert await guard.acquire("one", "2") == Moved()
    taken = await guard.acquire("one", "2", "moved")
    assert isinstance(taken, Taken)
    assert taken.mark == first
    assert await guard.progress("one", "2", mark=second) == "ok"
    assert isinstance(await guard.acquire("one", "3", "moved"), Busy), "only a lane that was moved"


async def test_moved_lane_of_a_dead_worker_is_taken_by_others(guard: Guard) -> None:
    (first,) = await guard.create(1)
    await guard.renew("one", ttl=1)
    await guard.acquire("one")
    await guard.progress("one", mark=first)
    await until(guard.has_run_out, "the lease runs out")
    lanes = [LanePlace(guard.keys.stream, guard.keys.entries, "Step")]
    await administration.seek_step(guard.router, [(guard.keys.leases, lanes)], target="0-0", policy="keep", mode="move")
    busy = await guard.acquire("two")
    assert isinstance(busy, Busy)
    claim = f"one\n{busy.tenure}\n".encode() + busy.lease
    taken = await guard.acquire("two", claim=claim)
    assert isinstance(taken, Taken)
    assert taken.mark == "0-0"
