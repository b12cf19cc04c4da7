"""Membership: an even and stable assignment of lanes to the live workers that want them."""

from __future__ import annotations

import orjson
import pytest

from motia_redis._steps.wants import Wants
from motia_redis._store.keyspace import Keyspace, Layout
from motia_redis._worker.lanes import lane_name
from motia_redis._worker.membership import assign

LANES = [lane_name("Step", b"{motia:%d}:events:%d" % (partition, lane)) for partition in range(16) for lane in range(8)]


@pytest.mark.parametrize("lanes", [8, 128])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 50, 200])
def test_shares_of_workers_differ_by_one_lane_at_most(count: int, lanes: int) -> None:
    for attempt in range(20):
        workers = [f"worker{number} of {attempt}" for number in range(count)]
        owners = list(assign(LANES[:lanes], workers).values())
        loads = [owners.count(worker) for worker in workers]
        assert sum(loads) == lanes
        assert max(loads) - min(loads) <= 1


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


def test_wants_tell_which_entries_and_streams_a_version_wants() -> None:
    keyspace = Keyspace("motia", Layout())
    wants = Wants(states=(("orders", None), ("users", "ann")), topics=("mail",))
    assert Wants.decode(orjson.loads(orjson.dumps(wants.encode()))) == wants
    assert Wants.decode({"states": [["orders", None], ["users", "ann"]], "topics": ["mail"]}) == wants
    for broken in (None, [], {"states": []}, {"states": [1], "topics": []}, {"states": [["a", 1]], "topics": []}):
        assert Wants.decode(broken) is None
    assert wants.match({b"type": b"state:created", b"scope": b"orders", b"key": b"1"})
    assert wants.match({b"type": b"topic", b"topic": b"mail"})
    assert not wants.match({b"type": b"state:created", b"scope": b"users", b"key": b"bob"})
    assert not wants.match({b"type": b"topic", b"topic": b"other"})
    stream = keyspace.state_keys(b"users", b"ann").events
    timed = Wants(states=(), topics=("mail",), schedules=(("Report", "UTC 0 3 * * *"),))
    assert Wants.decode(orjson.loads(orjson.dumps(timed.encode()))) == timed
    for broken in (None, "x", [1], [["Report"]], [["Report", 1]]):
        assert Wants.decode({"states": [], "topics": [], "schedules": broken}) is None
    assert timed.match({b"type": b"cron", b"schedule": b"UTC 0 3 * * *"})
    assert not timed.match({b"type": b"cron", b"schedule": b"UTC 0 4 * * *"})
    assert not wants.match({b"type": b"cron", b"schedule": b"UTC 0 3 * * *"})
    assert timed.within(keyspace, keyspace.cron("Report")) == Wants((), (), (("Report", "UTC 0 3 * * *"),))
    assert keyspace.cron("Report") in timed.streams(keyspace)
    assert stream in wants.streams(keyspace)
    assert wants.within(keyspace, stream) == Wants(states=(("users", "ann"),), topics=())
