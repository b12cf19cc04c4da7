"""List, retry and drop dead letters: events and messages that a step gave up on, each with the error of its last attempt."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from motia_redis._admin import registry
from motia_redis._admin.connections import open_namespace
from motia_redis._admin.merging import merge
from motia_redis._scripts import administration
from motia_redis._steps import events
from motia_redis._steps.stream_triggers import decode_item_change
from motia_redis._store import codec, effects
from motia_redis._store.keyspace import is_cron
from motia_redis._store.stream_groups import StreamGroup, scope_name
from motia_redis.errors import DeadLetterMissing, StepMissing

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncIterator, Mapping

    from motia_redis._steps.inputs import CronTriggerInput, StateTriggerInput
    from motia_redis._steps.stream_triggers import StreamTriggerInput
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.manager import StateManager
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


class DeadLetters:
    """Read, retry and drop the dead letters of a namespace.

    A step's letters are in one stream for each partition. No call scans the keyspace. Every call opens separate connections, and
    may raise StateUnavailable.
    """

    def __init__(self, state: StateManager) -> None:
        self._state = state

    # -- reading ------------------------------------------------------------------------------------------------------

    async def count(self, step: str | None = None) -> int:
        """Return the number of letters of a step, or of all steps. Cost: two round trips; steps times partitions."""
        async with open_namespace(self._state, "dead letters") as (router, keyspace):
            return sum((await _filled(router, keyspace, step)).values())

    async def list(self, step: str | None = None, *, limit: int = 100) -> list[DeadLetter]:
        """Return the oldest letters of a step, or of all steps, ordered by time.

        Cost: a few round trips, page by page; the bytes of the letters.
        """
        async with open_namespace(self._state, "dead letters") as (router, keyspace):
            found: builtins.list[DeadLetter] = []
            async for letter in _merged(router, [*await _filled(router, keyspace, step)]):
                if len(found) >= limit:
                    break
                found.append(letter)
            return found

    async def get(self, step: str, id: str) -> DeadLetter:
        """Return one letter. Raises DeadLetterMissing."""
        async with open_namespace(self._state, f"dead letter {id}") as (router, keyspace):
            return await self._get(router, keyspace, step, id)

    # -- retrying ---------------------------------------------------------------------------------------------------

    async def retry(self, step: str, id: str) -> None:
        """Append the letter's event to its lane again, for this step only, with all its attempts, and remove the letter.

        The call is atomic. The event does not keep its place in the order of its key: it runs after the newer events of that key
        that were written before this call, and never at the same time as one of them. The handler gets the old `new_value` and
        the original `revision`. The step's present conditions are checked again; if they do not want the event, it becomes a dead
        letter again. After StateUnavailable the event may have been appended; then the letter is gone.

        Raises DeadLetterMissing (also if the event was trimmed) and StepMissing (the step was forgotten, or the triggers of its
        running versions do not cover the event). The letter stays then.
        """
        async with open_namespace(self._state, f"dead letter {id}") as (router, keyspace):
            letter = await self._get(router, keyspace, step, id)
            (error,) = await _retry(router, keyspace, [letter])
        if error is not None:
            raise error

    async def retry_all(self, step: str | None = None) -> tuple[int, builtins.list[str]]:
        """Retry all letters that exist now, as `retry` does. Return their number, and the errors of the others."""
        retried, left = 0, []
        async with open_namespace(self._state, "dead letters") as (router, keyspace):
            async for _, page in _all_pages(router, keyspace, step):
                errors = [error for error in await _retry(router, keyspace, page) if error is not None]
                retried += len(page) - len(errors)
                left += [str(error) for error in errors]
        return retried, left

    # -- dropping -----------------------------------------------------------------------------------------------------

    async def drop(self, step: str, id: str) -> None:
        """Delete a letter. Raises DeadLetterMissing."""
        async with open_namespace(self._state, f"dead letter {id}") as (router, keyspace):
            letter = await self._get(router, keyspace, step, id)
            if not await _drop(router, keyspace, _place(keyspace, step, id)[0], [letter]):
                raise _missing(step, id)

    async def drop_all(self, step: str | None = None) -> int:
        """Delete all letters that exist now, of a step or of all steps. Return their number."""
        dropped = 0
        async with open_namespace(self._state, "dead letters") as (router, keyspace):
            async for place, page in _all_pages(router, keyspace, step):
                dropped += await _drop(router, keyspace, place, page)
        return dropped

    @staticmethod
    async def _get(router: Router, keyspace: Keyspace, step: str, id: str) -> DeadLetter:
        place, entry_id = _place(keyspace, step, id)
        reply: Any = await router.execute(place.stream, "XRANGE", place.stream, entry_id, entry_id)
        if not reply:
            raise _missing(step, id)
        return _letter(place, *reply[0])


@dataclass(frozen=True, slots=True)
class _Place:
    """Name the stream of a step's dead letters in one partition."""

    step: str
    partition: int
    stream: bytes


def _place(keyspace: Keyspace, step: str, id: str) -> tuple[_Place, str]:
    """Return the place of the letter with this id, and the id of its entry there. Raises DeadLetterMissing."""
    match = _ID.fullmatch(id)
    if match is None or int(match[1]) >= keyspace.layout.partitions:
        raise _missing(step, id)
    return _in_partition(keyspace, step, int(match[1])), match[2]


def _in_partition(keyspace: Keyspace, step: str, partition: int) -> _Place:
    return _Place(step, partition, keyspace.dead(keyspace.events(partition, 0), step))


def _missing(step: str, id: str) -> DeadLetterMissing:
    return DeadLetterMissing(f"step {step!r} has no dead letter {id!r}: check the id with `motia-redis dead list`")


async def _filled(router: Router, keyspace: Keyspace, step: str | None) -> dict[_Place, int]:
    """Return the places where a step, or any step, has letters, with the number of letters."""
    partitions = range(keyspace.layout.partitions)
    if step is not None:
        places = [_in_partition(keyspace, step, partition) for partition in partitions]
    else:
        known = (await registry.read(router, keyspace)).steps
        places = [_in_partition(keyspace, name, partition) for partition in partitions for name in sorted(known[partition])]
    counts = await router.gather([(place.stream, ("XLEN", place.stream)) for place in places])
    return {place: count for place, count in zip(places, counts, strict=True) if count}


async def _pages(router: Router, place: _Place) -> AsyncIterator[list[DeadLetter]]:
    """Yield the letters that exist now, page by page. Skip letters written meanwhile, such as retries that failed again."""
    newest: Any = await router.execute(place.stream, "XREVRANGE", place.stream, "+", "-", "COUNT", 1)
    start = "-"
    while newest:
        page: Any = await router.execute(place.stream, "XRANGE", place.stream, start, newest[0][0], "COUNT", _PAGE)
        if page:
            yield [_letter(place, *entry) for entry in page]
        if len(page) < _PAGE:
            return
        start = f"({page[-1][0].decode()}"


async def _all_pages(router: Router, keyspace: Keyspace, step: str | None) -> AsyncIterator[tuple[_Place, list[DeadLetter]]]:
    """Yield the pages of all places where a step, or any step, has letters."""
    for place in await _filled(router, keyspace, step):
        async for page in _pages(router, place):
            yield place, page


async def _merged(router: Router, places: list[_Place]) -> AsyncIterator[DeadLetter]:
    """Yield the letters of several places, the oldest first."""
    sources = [(letter async for page in _pages(router, place) for letter in page) for place in places]
    async for letter in merge(sources, lambda letter: letter.time):
        yield letter


def _letter(place: _Place, entry_id: bytes, fields: Mapping[bytes, bytes]) -> DeadLetter:
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


async def _retry(router: Router, keyspace: Keyspace, letters: list[DeadLetter]) -> list[DeadLetterMissing | StepMissing | None]:
    """Retry letters. Return for each why it stayed, or None."""
    known = await registry.read(router, keyspace)
    errors: list[DeadLetterMissing | StepMissing | None] = [_unwanted_error(letter, known) for letter in letters]
    calls = []
    for letter, error in zip(letters, errors, strict=True):
        if error is None:
            place, entry_id = _place(keyspace, letter.step, letter.id)
            origin = letter.fields[b"stream"]
            stream = keyspace.cron(letter.step) if is_cron(origin) else origin  # the step may have been renamed
            calls.append(administration.Letter(place.stream, stream, letter.step, entry_id, origin))
    outcomes = iter(await administration.retry_dead_letter(router, calls))
    return [
        _retry_error(letter, next(outcomes)) if error is None else error for letter, error in zip(letters, errors, strict=True)
    ]


def _unwanted_error(letter: DeadLetter, known: registry.Registry) -> StepMissing | None:
    """Return an error if workers run the step, and their versions of it do not want the letter's event."""
    versions = known.versions(letter.step)
    if not versions or not letter.event_type or any(wants.match(letter.fields) for wants in versions):
        return None
    if letter.schedule is not None:
        event = f"cron {letter.schedule!r}"
    else:
        event = f"topic {letter.topic!r}" if letter.topic is not None else f"scope {letter.scope!r}, key {letter.key!r}"
    return StepMissing(
        f"dead letter {letter.id} of step {letter.step!r} cannot be retried: no trigger of the running versions of the step "
        f"covers {event}; run a version that does, or drop the letter"
    )


def _retry_error(letter: DeadLetter, outcome: administration.RetryOutcome) -> DeadLetterMissing | StepMissing | None:
    subject = f"dead letter {letter.id} of step {letter.step!r} cannot be retried"
    match outcome:
        case "retried":
            return None
        case "gone":
            return _missing(letter.step, letter.id)
        case "empty":
            return DeadLetterMissing(f"{subject}: its event was trimmed before the step gave up; drop the letter")
        case "no group":
            return StepMissing(f"{subject}: the step has no consumer group on {letter.stream}; start a worker that runs the step")


async def _drop(router: Router, keyspace: Keyspace, place: _Place, letters: list[DeadLetter]) -> int:
    """Delete letters of one place, and what their handlers have recorded of their effects. Return their number."""
    found = {letter.id.partition("/")[2]: letter for letter in letters}
    identity, removed = await administration.drop_dead_letters(
        router, dead=place.stream, leases=keyspace.leases(place.stream), step=place.step, ids=list(found)
    )
    events = [effects.event_id(identity, found[entry_id].fields[b"stream"], found[entry_id].revision) for entry_id in removed]
    await effects.free(router, keyspace, [(effects.record_name(event), None) for event in events])
    return len(removed)
