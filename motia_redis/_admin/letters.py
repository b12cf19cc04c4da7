"""Read dead letters: events and messages that a step gave up on, each with the error of its last attempt."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from motia_redis._admin import registry
from motia_redis._admin.merging import merge
from motia_redis._steps import events
from motia_redis._steps.stream_triggers import decode_item_change
from motia_redis._store import codec
from motia_redis._store.stream_groups import StreamGroup, scope_name
from motia_redis.errors import DeadLetterMissing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from motia_redis._steps.inputs import CronTriggerInput, StateTriggerInput
    from motia_redis._steps.stream_triggers import StreamTriggerInput
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._transport.router import Router

_PAGE = 20  # letters of one read; each may hold two values of the largest size
_ID = re.compile(r"(\d{1,5})/(\d{1,20}-\d{1,20})")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """Describe one event or message that one step gave up on.

    An event has `event_type`, `scope` and `key`; for an item of a stream `scope` is a `StreamGroup`. A message has `event_type`
    "topic", `topic`, and `key` if it was sent with one. A time of a cron trigger has `event_type` "cron", and `schedule`: the
    time zone and the expression. All five are None if the entry was trimmed before the step handled it.
    """

    id: str  #: `<partition>/<entry id>`; unique for one step
    step: str
    stream: str  #: the stream that the entry was in
    entry_id: str  #: the id of the entry in that stream; after a retry, the id that the retry gave
    error_type: str
    error_text: str
    attempts: int
    time: datetime  #: when the step gave up, by the clock of Redis
    traceback: str  #: of the last attempt
    trace_id: str  #: of the last attempts
    event_type: str | None
    scope: str | None
    topic: str | None
    key: str | None
    schedule: str | None
    revision: str  #: the revision of the event; a retry passes the same one to the handler
    fields: Mapping[bytes, bytes] = field(repr=False)  #: the fields of the entry in Redis

    @property
    def change(self) -> StateTriggerInput:
        """Return the change, as a state trigger gets it. Raises DeadLetterMissing if the letter holds no change, CorruptValue."""
        if self.scope is None:
            raise DeadLetterMissing(f"dead letter {self.id} of step {self.step!r} holds no change")
        return events.decode_change(self.revision, self.fields)

    @property
    def item_change(self) -> StreamTriggerInput:
        """Return the change of a stream's item, as a stream trigger gets it. Raises DeadLetterMissing, CorruptValue."""
        if not isinstance(self.scope, StreamGroup):
            raise DeadLetterMissing(f"dead letter {self.id} of step {self.step!r} holds no change of a stream's item")
        return decode_item_change(self.revision, self.fields)

    @property
    def old_value(self) -> Any:
        """Return the value before the change. Errors: as `change`."""
        return self.change.old_value

    @property
    def new_value(self) -> Any:
        """Return the value after the change. Errors: as `change`."""
        return self.change.new_value

    @property
    def cron_time(self) -> CronTriggerInput:
        """Return the time of a cron trigger. Raises DeadLetterMissing if the letter holds none, CorruptValue."""
        if self.schedule is None:
            raise DeadLetterMissing(f"dead letter {self.id} of step {self.step!r} holds no time of a cron trigger")
        return events.decode_time(self.entry_id, self.fields)

    @property
    def data(self) -> Any:
        """Return the data of the message. Raises DeadLetterMissing if the letter holds no message, CorruptValue."""
        if self.topic is None:
            raise DeadLetterMissing(f"dead letter {self.id} of step {self.step!r} holds no message")
        return codec.decode(self.fields[b"data"], subject=f"dead letter {self.id}")


@dataclass(frozen=True, slots=True)
class LetterPlace:
    """Name the stream of a step's dead letters in one partition."""

    step: str
    partition: int
    stream: bytes


def place_of(keyspace: Keyspace, step: str, id: str) -> tuple[LetterPlace, str]:
    """Return the place of the letter with this id, and the id of its entry there. Raises DeadLetterMissing."""
    match = _ID.fullmatch(id)
    if match is None or int(match[1]) >= keyspace.layout.partitions:
        raise missing(step, id)
    return _in_partition(keyspace, step, int(match[1])), match[2]


def _in_partition(keyspace: Keyspace, step: str, partition: int) -> LetterPlace:
    return LetterPlace(step, partition, keyspace.dead(keyspace.events(partition, 0), step))


def missing(step: str, id: str) -> DeadLetterMissing:
    return DeadLetterMissing(f"step {step!r} has no dead letter {id!r}: check the id with `motia-redis dead list`")


async def filled(router: Router, keyspace: Keyspace, step: str | None) -> dict[LetterPlace, int]:
    """Return the places where a step, or any step, has letters, with the number of letters."""
    partitions = range(keyspace.layout.partitions)
    if step is not None:
        places = [_in_partition(keyspace, step, partition) for partition in partitions]
    else:
        known = (await registry.read(router, keyspace)).steps
        places = [_in_partition(keyspace, name, partition) for partition in partitions for name in sorted(known[partition])]
    counts = await router.gather([(place.stream, ("XLEN", place.stream)) for place in places])
    return {place: count for place, count in zip(places, counts, strict=True) if count}


async def newest_ids(router: Router, places: Sequence[LetterPlace]) -> dict[LetterPlace, bytes]:
    """Return the id of the newest letter of each place that has one: reading up to it skips what is written later."""
    replies = await router.gather([(place.stream, ("XREVRANGE", place.stream, "+", "-", "COUNT", 1)) for place in places])
    return {place: reply[0][0] for place, reply in zip(places, replies, strict=True) if reply}


async def pages(router: Router, place: LetterPlace, newest: bytes | None = None) -> AsyncIterator[list[DeadLetter]]:
    """Yield the letters up to an id, else those that exist now, page by page, the oldest first.

    Skip letters written meanwhile, such as retries that failed again.
    """
    if newest is None:
        newest = (await newest_ids(router, [place])).get(place)
    start = "-"
    while newest:
        page: Any = await router.execute(place.stream, "XRANGE", place.stream, start, newest, "COUNT", _PAGE)
        if page:
            yield [letter_of(place, *entry) for entry in page]
        if len(page) < _PAGE:
            return
        start = f"({page[-1][0].decode()}"


async def newest_first(
    router: Router, places: Sequence[LetterPlace], cursor: LetterCursor | None = None
) -> AsyncIterator[DeadLetter]:
    """Yield the letters of several places, the newest first; with a cursor, those that come after that letter."""

    async def of_place(place: LetterPlace) -> AsyncIterator[DeadLetter]:
        end = "+"
        if cursor is not None:  # letters of several places may have the same id
            end = cursor.entry_id if (place.partition, place.step) < (cursor.partition, cursor.step) else f"({cursor.entry_id}"
        while True:
            page: Any = await router.execute(place.stream, "XREVRANGE", place.stream, end, "-", "COUNT", _PAGE)
            for entry in page:
                yield letter_of(place, *entry)
            if len(page) < _PAGE:
                return
            end = f"({page[-1][0].decode()}"

    def order(letter: DeadLetter) -> tuple[int, int, int, list[int]]:
        partition, _, entry_id = letter.id.partition("/")
        milliseconds, _, number = entry_id.partition("-")
        return -int(milliseconds), -int(number), -int(partition), [-ord(character) for character in letter.step] + [0]

    async for letter in merge([of_place(place) for place in places], order):
        yield letter


class LetterCursor(NamedTuple):
    """The place of a letter among those of several places."""

    entry_id: str
    partition: int
    step: str

    @classmethod
    def of(cls, letter: DeadLetter) -> LetterCursor:
        """Return the cursor behind a letter."""
        partition, _, entry_id = letter.id.partition("/")
        return cls(entry_id, int(partition), letter.step)

    @classmethod
    def parse(cls, text: str) -> LetterCursor | None:
        """Return the cursor that `str` gave; None for any other text."""
        letter, _, step = text.partition(" ")
        match = _ID.fullmatch(letter)
        return None if match is None else cls(match[2], int(match[1]), step)

    def __str__(self) -> str:
        return f"{self.partition}/{self.entry_id} {self.step}"


async def all_pages(router: Router, keyspace: Keyspace, step: str | None) -> AsyncIterator[tuple[LetterPlace, list[DeadLetter]]]:
    """Yield the pages of all places where a step, or any step, has letters."""
    for place in await filled(router, keyspace, step):
        async for page in pages(router, place):
            yield place, page


async def merged(router: Router, places: list[LetterPlace]) -> AsyncIterator[DeadLetter]:
    """Yield the letters of several places, the oldest first."""
    sources = [(letter async for page in pages(router, place) for letter in page) for place in places]
    async for letter in merge(sources, lambda letter: letter.time):
        yield letter


def letter_of(place: LetterPlace, entry_id: bytes, fields: Mapping[bytes, bytes]) -> DeadLetter:
    def text(name: bytes) -> str | None:
        return fields[name].decode(errors="replace") if fields.get(name) else None

    original = text(b"id") or ""
    return DeadLetter(
        id=f"{place.partition}/{entry_id.decode()}",
        step=place.step,
        stream=text(b"stream") or "",
        entry_id=original,
        error_type=text(b"error") or "",
        error_text=text(b"text") or "",
        attempts=int(fields[b"attempts"]),
        time=datetime.fromtimestamp(int(fields[b"time"]) / 1000, UTC),
        traceback=text(b"traceback") or "",
        trace_id=text(b"trace_id") or "",
        event_type=text(b"type"),
        scope=None if (scope := text(b"scope")) is None else scope_name(scope),
        topic=text(b"topic"),
        key=text(b"key"),
        schedule=text(b"schedule"),
        revision=text(b"revision") or original,
        fields=fields,
    )
