"""Lanes, transactions and cursors of a watch without Redis: whatever the reads return, the order is right and can go on."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest

from motia_redis._scripts.storage import LanePosition
from motia_redis._store.cursors import Cursor, Mark, Position, has_reached, order, verdict
from motia_redis._store.keyspace import Keyspace, Layout
from motia_redis._store.lanes import Event, PartitionLog
from motia_redis._store.snapshots import Snapshot
from motia_redis.errors import InvalidCursor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from motia_redis._store.cursors import Positions

LANES = 4
STREAMS = {lane: b"lane %d" % lane for lane in range(LANES)}
START: Positions = {lane: Position(b"0-0", 0) for lane in range(LANES)}
Entry = tuple[bytes, dict[bytes, bytes]]


def write(rnd: random.Random, count: int) -> dict[int, list[Entry]]:
    """Return lanes of single changes, transactions over several of them, and entries that are no changes."""
    lanes: dict[int, list[Entry]] = {lane: [] for lane in range(LANES)}
    for number in range(1, count):
        if rnd.random() < 0.4:
            changes = rnd.randrange(1, 6)
            size = changes + rnd.randrange(2)  # one of them may be a message, which is not here
            for index in range(size - changes, size):
                mark = b"t%d:%d:%d:%d" % (number, size, index, changes)
                add(lanes, rnd.randrange(LANES), number, {b"transaction": mark})
        elif rnd.random() < 0.1:
            add(lanes, rnd.randrange(LANES), number, {b"type": b"mark:x"})
        else:
            add(lanes, rnd.randrange(LANES), number, {})
    return lanes


def add(lanes: dict[int, list[Entry]], lane: int, number: int, fields: dict[bytes, bytes]) -> None:
    entries = lanes[lane]
    same = sum(1 for entry_id, _ in entries if entry_id.startswith(b"%d-" % number))
    entries.append((b"%d-%d" % (number, same), {b"type": b"state:updated", b"scope": b"s", b"key": b"%d" % lane, **fields}))


def read(
    rnd: random.Random, log: PartitionLog, lanes: dict[int, list[Entry]]
) -> Iterator[tuple[Event, Positions, tuple[bytes, int] | None]]:
    """Read to the end in pages of any size. Yield each event with the positions after it."""
    while any(log.read[lane].number < len(entries) for lane, entries in lanes.items()):
        reply = {}
        for lane in rnd.sample(range(LANES), rnd.randrange(1, LANES + 1)):
            begin = log.read[lane].number
            if page := lanes[lane][begin : begin + rnd.randrange(4)]:
                reply[STREAMS[lane]] = page
        if (taken := log.take(reply)) is not None:
            batch, events = taken
            for index, event in enumerate(events):
                yield event, *batch.positions(index)


@pytest.mark.parametrize("seed", range(60))
def test_order_of_lanes_and_transactions_holds_for_any_reads_and_from_any_place(seed: int) -> None:
    rnd = random.Random(seed)
    lanes = write(rnd, 40)
    shown = list(read(rnd, PartitionLog(STREAMS, START), lanes))
    check([event for event, _, _ in shown], lanes)
    changes = [event for event, _, _ in shown if event.scope is not None]
    for event, positions, mark in rnd.sample(shown, min(12, len(shown))):
        seen = {other for other, _, _ in shown[: [each for each, _, _ in shown].index(event) + 1]}
        log = PartitionLog(STREAMS, positions, first=mark and mark[0])
        later = [each for each, _, _ in read(rnd, log, lanes)]
        if mark is not None:  # the rest of the transaction comes first
            assert {each.transaction for each in later[: later[0].changes]} == {mark[0]}
        again = [each for each in later if mark is None or each.transaction != mark[0] or each.index > mark[1]]
        expected = {(each.lane, each.id) for each in changes if each not in seen}
        found = [(each.lane, each.id) for each in again if each.scope is not None]
        assert len(found) == len(set(found))
        assert set(found) == expected


def check(events: list[Event], lanes: dict[int, list[Entry]]) -> None:
    """Assert that all is there, in the order of the lanes, and that transactions are whole."""
    for lane, entries in lanes.items():
        of_lane = [event for event in events if event.lane == lane]
        assert [event.id for event in sorted(of_lane, key=lambda event: event.number)] == [entry_id for entry_id, _ in entries]
        singles = [event.number for event in of_lane if event.transaction is None]
        assert singles == sorted(singles)
        for first, second in pairwise(of_lane):
            assert first.number < second.number or first.transaction == second.transaction is not None
    open_name, left = None, 0
    for event in events:
        if left:
            assert event.transaction == open_name, "another event stands between the changes of a transaction"
            left -= 1
        elif event.transaction is not None:
            open_name, left = event.transaction, event.changes - 1
        assert event.is_last == (left == 0)
    assert left == 0


def test_watch_of_one_lane_does_not_wait_for_other_parts() -> None:
    log = PartitionLog({1: STREAMS[1]}, {1: START[1]}, joins=False)
    fields = {b"type": b"state:created", b"scope": b"s", b"key": b"k", b"transaction": b"t:3:0:3"}
    taken = log.take({STREAMS[1]: [(b"1-0", fields)]})
    assert taken is not None
    assert [event.key for event in taken[1]] == [b"k"]


@pytest.mark.parametrize("mark", [b"", b"x", b"a:b:c:d", b"t:1:2", b"t:3:1:3:9"])
def test_mark_of_another_client_is_no_transaction(mark: bytes) -> None:
    event = Event(0, b"1-0", 1, {b"type": b"state:created", b"scope": b"s", b"key": b"k", b"transaction": mark})
    assert event.transaction is None
    assert event.is_last


def draw(rnd: random.Random) -> Position:
    """Return the position of a lane, which may have had no entry."""
    if rnd.random() < 0.2:
        return Position(b"0-0", 0)
    milliseconds, sequence = rnd.getrandbits(rnd.randrange(1, 48)), rnd.getrandbits(rnd.randrange(1, 20))
    return Position(b"%d-%d" % (milliseconds, sequence), rnd.getrandbits(30) + 1)


@pytest.mark.parametrize("seed", range(20))
def test_cursor_is_what_was_encoded(seed: int) -> None:
    rnd = random.Random(seed)
    places: dict[int, Positions] = {}
    for partition in rnd.sample(range(16384), rnd.randrange(1, 20)):
        places[partition] = {lane: draw(rnd) for lane in rnd.sample(range(1024), rnd.randrange(1, 9))}
    mark = Mark(rnd.randrange(16384), b"0123456789abcdef", rnd.randrange(100)) if rnd.random() < 0.5 else None
    cursor = Cursor("a.b:c", (16384, 1024), places, mark)
    assert Cursor.decode(cursor.encode()) == cursor
    assert Cursor.decode(Cursor("n", (1, 1)).encode()) == Cursor("n", (1, 1))


def test_any_bytes_are_no_cursor_or_one() -> None:
    rnd = random.Random(1)
    text = Cursor("motia", (16, 8), {3: dict(START)}, Mark(3, b"t", 1)).encode()
    for _ in range(3000):
        changed = list(text)
        for _ in range(rnd.randrange(1, 4)):
            changed[rnd.randrange(len(changed))] = chr(rnd.randrange(32, 127))
        if "".join(changed) != text:
            with pytest.raises(InvalidCursor):
                Cursor.decode("".join(changed))


def test_cursor_fits_a_namespace_and_layout() -> None:
    cursor = Cursor("motia", (16, 8))
    assert cursor.problem("motia", Layout(16, 8)) is None
    assert "namespace 'motia', not of 'other'" in str(cursor.problem("other", Layout(16, 8)))
    assert "16x8, not of 16x4" in str(cursor.problem("motia", Layout(16, 4)))


@pytest.mark.parametrize(
    ("position", "lane", "expected"),
    [
        # a position (id, number) and the lane: its last id, trimmed, there, whether it has the entry
        ((b"5-0", 5), (b"5-0", 0, 5, 1), None),
        ((b"5-0", 5), (b"9-0", 2, 7, 1), None),
        ((b"5-0", 5), (b"5-0", 5, 0, 0), None),  # trimmed up to it, nothing newer
        ((b"5-0", 5), (b"9-0", 5, 4, 0), None),  # trimmed up to it
        ((b"5-0", 5), (b"9-0", 6, 3, 0), "gone"),
        ((b"5-0", 5), (b"5-0", 3, 9, 1), "gone"),  # it is the last one, but there were more: trimmed between two reads
        ((b"5-0", 5), (b"4-0", 0, 4, 0), "forked"),
        ((b"5-0", 5), (b"9-0", 0, 9, 0), "forked"),  # new ones have passed it
        ((b"5-0", 5), (b"0-0", 0, 0, 0), "forked"),
        ((b"0-0", 0), (b"0-0", 0, 0, 0), None),
        ((b"0-0", 0), (b"9-0", 0, 3, 0), None),
        ((b"0-0", 0), (b"9-0", 1, 2, 0), "gone"),
        ((b"5-0", 5), (b"5-0", 0, 3, 1), None),  # another client has trimmed, which is not counted
    ],
)
def test_lane_tells_what_was_lost(position: tuple[bytes, int], lane: tuple[bytes, int, int, int], expected: str | None) -> None:
    assert verdict(Position(*position), LanePosition(*lane)) == expected


def test_place_is_reached_by_number_or_by_id() -> None:
    assert has_reached(Position(b"5-0", 5), Position(b"5-0", 5))
    assert has_reached(Position(b"5-0", 5), Position(b"4-9", 9))
    assert has_reached(Position(b"5-0", 5), Position(b"9-0", 5))  # the entry with that id was taken back
    assert not has_reached(Position(b"5-0", 5), Position(b"5-1", 6))
    assert order(b"10-2") > order(b"9-30")


def test_snapshot_leaves_out_what_a_delivered_change_has_shown_or_will_show() -> None:
    """A page may be read before a change that is delivered before it, and after one that is still to come."""
    names, shown = Keyspace("motia", Layout()), list[Event]()
    partition = names.partition(b"s")
    base = {partition: {lane: Position(b"5-0", 1) for lane in range(8)}}
    snapshot = Snapshot(Mock(), "test", names, base, show=shown.append, room=Mock())
    fields = {b"type": b"state:updated", b"scope": b"s", b"key": b"changed"}
    snapshot.note(Event(0, b"6-0", 2, fields))
    for key, revision in [(b"changed", b"4-0"), (b"later", b"6-0"), (b"old", b"5-0"), (b"foreign", b"0-0"), (b"broken", b"x")]:
        snapshot._show_value(b"s", key, b"1", revision)
    assert [event.key for event in shown] == [b"old", b"foreign", b"broken"]
    assert snapshot.missing({(b"s", b"changed"), (b"s", b"gone")}) == {(b"s", b"gone")}
