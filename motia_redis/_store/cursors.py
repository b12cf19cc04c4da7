"""How far a watch has come: positions in lanes, and the cursor that carries them as text.

A position is the id of the last entry seen and its number, counted from the first entry that the stream ever had. The server
knows how many entries were trimmed. So both together tell exactly whether something was trimmed that was not seen, also for a
lane that is quiet for so long that its last entry is gone.
"""

from __future__ import annotations

import base64
import binascii
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from motia_redis.errors import InvalidCursor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from motia_redis._scripts.storage import LanePosition
    from motia_redis._store.keyspace import Layout

_FORM = 1  # of a cursor


class Position(NamedTuple):
    """The last entry of a lane that was seen; `0-0` and 0: none yet."""

    id: bytes
    number: int


Positions = dict[int, Position]  # by lane


class Mark(NamedTuple):
    """The place of a reader inside of a transaction; the positions are those before it."""

    partition: int
    transaction: bytes  #: its request id
    seen: int  #: the index of the last of its changes that the reader has


def order(entry_id: bytes) -> tuple[int, int]:
    """Return an entry id in a form that compares as Redis orders ids."""
    milliseconds, _, sequence = entry_id.partition(b"-")
    return int(milliseconds), int(sequence)


def end_of(lane: LanePosition) -> Position:
    """Return the position of the end of a lane."""
    return Position(lane.last, lane.removed + lane.length)


def has_reached(position: Position, target: Position) -> bool:
    """Return whether everything up to `target` has been seen."""
    return position.number >= target.number or order(position.id) >= order(target.id)


def verdict(position: Position, lane: LanePosition) -> Literal["gone", "forked"] | None:
    """Compare a position with its lane as it is now. None: nothing was lost. `lane` was asked for the position's entry.

    Gone: entries after it were trimmed. Forked: the entry is missing, though it was not trimmed: the server has lost writes.
    """
    if lane.removed > position.number:
        return "gone"
    if lane.last == position.id and lane.removed + lane.length > position.number:
        return "gone"  # entries were trimmed between two reads
    return "forked" if not lane.has_entry and lane.removed < position.number else None


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a watch has come."""

    namespace: str
    layout: tuple[int, int]  #: partitions and lanes
    places: Mapping[int, Positions] = field(default_factory=dict)  #: by partition; none: its snapshot was not complete
    mark: Mark | None = None

    def encode(self) -> str:
        """Return the cursor as text: about 15 characters for each lane that has had an entry."""
        namespace = self.namespace.encode()
        latest = max((order(position.id)[0] for lanes in self.places.values() for position in lanes.values()), default=0)
        numbers = [_FORM, *self.layout, latest, len(self.places)]
        for partition, lanes in self.places.items():
            numbers += partition, len(lanes)
            for lane, position in lanes.items():
                milliseconds, sequence = order(position.id)
                numbers += lane, position.number
                if position.number:
                    numbers += latest - milliseconds, sequence
        partition, name, index = self.mark or Mark(0, b"", 0)
        numbers += partition, index, len(name), len(namespace)
        text = b"".join(map(_varint, numbers)) + name + namespace
        return _to_text(text + binascii.crc32(text).to_bytes(4, "big"))

    @classmethod
    def decode(cls, text: object) -> Cursor:
        """Return the cursor of a text. Raises InvalidCursor for any other text."""
        if not isinstance(text, str):
            raise InvalidCursor(f"a cursor is a text that an item of a watch has, not {type(text).__name__}: {text!r:.80}")
        with suppress(ValueError, StopIteration):
            raw = base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
            content, checksum = raw[:-4], raw[-4:]
            if content and binascii.crc32(content).to_bytes(4, "big") == checksum and _to_text(raw) == text:
                return cls._parse(content)
        raise InvalidCursor(f"start must be 'now', 'snapshot' or the cursor of an item of a watch, unchanged, not {text!r:.80}")

    @classmethod
    def _parse(cls, content: bytes) -> Cursor:
        rest = iter(content)
        form, partitions, lanes, latest, count = (_number(rest) for _ in range(5))
        if form != _FORM:
            raise ValueError
        places: dict[int, Positions] = {}
        for _ in range(count):
            partition, size = _number(rest), _number(rest)
            place = places[partition] = {}
            for _ in range(size):
                lane, number = _number(rest), _number(rest)
                milliseconds, sequence = (latest - _number(rest), _number(rest)) if number else (0, 0)
                place[lane] = Position(b"%d-%d" % (milliseconds, sequence), number)
        partition, index, name_size, namespace_size = (_number(rest) for _ in range(4))
        ending = bytes(rest)
        if len(ending) != name_size + namespace_size:
            raise ValueError
        mark = Mark(partition, ending[:name_size], index) if name_size else None
        return cls(ending[name_size:].decode(), (partitions, lanes), places, mark)

    def problem(self, namespace: str, layout: Layout) -> str | None:
        """Return why the cursor cannot be used in a namespace with this layout, or None."""
        if self.namespace != namespace:
            return f"the cursor is of namespace {self.namespace!r}, not of {namespace!r}"
        if self.layout != (layout.partitions, layout.lanes):
            return f"the cursor is of a layout of {self.layout[0]}x{self.layout[1]}, not of {layout.partitions}x{layout.lanes}"
        return None


def _to_text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes((*parts, number))


def _number(rest: Iterator[int]) -> int:
    number = shift = 0
    while (byte := next(rest)) > 127:
        number |= (byte & 127) << shift
        shift += 7
    return number | byte << shift
