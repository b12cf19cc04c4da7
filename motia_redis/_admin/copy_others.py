"""Copy what a namespace has besides values: messages of unread topics, delayed messages, schedules and dead letters.

It is done once nothing changes any more, and as a whole: what an earlier call has left at the target is removed before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from motia_redis._admin import registry
from motia_redis._admin.comparing import Compared, Tally, compare_tallies
from motia_redis._admin.delayed_records import MEMBER, DelayedRecord
from motia_redis._admin.merging import merge
from motia_redis._scripts import administration, delivery
from motia_redis._scripts.administration import LanePlace
from motia_redis._store.cursors import order
from motia_redis._store.keyspace import is_cron, join, partition_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from motia_redis._admin.registry import Registry
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._transport.router import Router

_PAGE = 50  # entries of one read; each may hold two values of the largest size
_MEMBERS = 500  # of a sorted set that are read at once
_TOPIC = b"}:topic:"

_Command = tuple[bytes, tuple[Any, ...]]


class Side(NamedTuple):
    """One of the two namespaces."""

    router: Router
    names: Keyspace
    known: Registry

    @classmethod
    async def read(cls, router: Router, names: Keyspace) -> Side:
        """Return a namespace with its steps as they are now."""
        return cls(router, names, await registry.read(router, names))


class _Thing(NamedTuple):
    """Something that is to be at the target, or is there."""

    label: str  #: topic or step
    key: bytes  #: the Redis key at the target
    parts: tuple[bytes, ...]  #: fields and values of an entry; else what a hash and a sorted set hold

    def fingerprint(self) -> bytes:
        return join((self.key, *self.parts))


# -- copying and comparing --------------------------------------------------------------------------------------------


async def copy_others(source: Side, target: Side) -> None:
    """Make the target's messages, delayed messages, schedules and dead letters those that the source has.

    No message, letter or schedule may be used at the target meanwhile. Entries get new ids; messages keep theirs. Cost: the bytes
    of all of them. Errors are those of redis-py.
    """
    await _clear(target)
    for things, commands in (
        (_messages(source, target.names), _add_message),
        (_letters(source, target.names), _add_letter),
        (_delayed(source, target.names), _add_delayed),
        (_schedules(source, target.names), _add_schedule),
    ):
        batch: list[_Command] = []
        async for thing in things:
            batch += commands(target.names, thing)
            if len(batch) >= _PAGE:
                await target.router.gather(batch)
                batch = []
        await target.router.gather(batch)
    await _create_cron_groups(source, target)


async def compare_others(source: Side, target: Side) -> list[Compared]:
    """Compare what the target has with what it is to have. Cost: the bytes of both. Errors are those of redis-py."""
    wanted, there = await tally_others(source, target.names), await _tally_stored(target)
    return [compare_tallies(kind, wanted[kind], there[kind]) for kind in wanted]


async def tally_others(source: Side, names: Keyspace) -> dict[str, Tally]:
    """Return the tallies of what a namespace with the keys `names` is to have, by kind."""
    return {
        "messages": await _tally(_messages(source, names)),
        "delayed messages": await _tally(_delayed(source, names)),
        "schedules": await _tally(_schedules(source, names)),
        "dead letters": await _tally(_letters(source, names)),
    }


async def _tally_stored(target: Side) -> dict[str, Tally]:
    return {
        "messages": await _tally(_stored_messages(target)),
        "delayed messages": await _tally(_delayed(target, target.names)),
        "schedules": await _tally(_schedules(target, target.names)),
        "dead letters": await _tally(_stored_letters(target)),
    }


async def _tally(things: AsyncIterator[_Thing]) -> Tally:
    found = Tally()
    async for thing in things:
        found.add(thing.label, thing.fingerprint())
    return found


async def _clear(target: Side) -> None:
    """Remove what an earlier call has copied."""
    router, names = target.router, target.names
    for partition in range(names.layout.partitions):
        due, topics = names.due(partition), names.topics(partition)
        commands: list[_Command] = [(topics, ("UNLINK", topics))]
        for topic in await router.execute(topics, "SMEMBERS", topics):
            commands += [(stream, ("UNLINK", stream)) for stream in _lanes(names, topic)]
        members = [member async for member, _ in _members(router, due) if not member.startswith(b"expiry:")]
        commands += [(due, ("ZREM", due, *members[at : at + _MEMBERS])) for at in range(0, len(members), _MEMBERS)]
        commands.append((due, ("UNLINK", names.delayed(partition))))
        leases = names.leases(due)
        for step in target.known.steps[partition]:
            commands += [(due, ("UNLINK", names.dead(due, step))), (due, ("UNLINK", names.schedules(due, step)))]
            commands.append((leases, ("HDEL", leases, f"forgotten {step}")))
        await router.gather(commands)


async def _create_cron_groups(source: Side, target: Side) -> None:
    """Create the groups of steps with schedules: whatever fires a time of a step without one forgets its schedule."""
    lanes = []
    for step in _cron_steps(source):
        stream = target.names.cron(step)
        name = step.encode() + b"\n" + stream
        lanes.append(delivery.LaneKeys(target.names.leases(stream), stream, target.names.entries(stream, step), name, step))
    await delivery.create_group(target.router, [(lane, "begin") for lane in lanes])


# -- messages ---------------------------------------------------------------------------------------------------------


async def _messages(source: Side, names: Keyspace) -> AsyncIterator[_Thing]:
    """Yield the messages that no step has handled: each topic's in the order of its lanes' entries."""
    for topic, lanes in (await _unread(source)).items():
        sources = [_entries(source.router, stream, start) for stream, start in lanes]
        async for _, fields in merge(sources, lambda entry: order(entry[0])):
            yield _Thing(topic.decode(errors="replace"), _topic_stream(names, topic, fields), _flat(fields))


async def _unread(source: Side) -> dict[bytes, list[tuple[bytes, bytes]]]:
    """Return, for each topic, the streams that no step consumes, and from which entry on: the first that was not handled.

    Where a step consumes a stream, it has handled everything (`status` shows no lag), so no message is needed. Lanes that no
    live version of their step wants do not count.
    """
    router, names, known = source
    unwanted = {step: known.unwanted_lanes(step, names) for step, _ in known.lanes}
    groups: dict[bytes, list[str]] = {}
    consumed: set[bytes] = set()
    for step, stream in known.lanes:
        if _TOPIC in stream:
            groups.setdefault(stream, []).append(step)
            if stream not in unwanted[step]:
                consumed.add(stream)
    topics = {stream.partition(_TOPIC)[2].partition(b":")[2] for stream in groups}
    for partition in range(names.layout.partitions):
        key = names.topics(partition)
        topics.update(await router.execute(key, "SMEMBERS", key))
    found: dict[bytes, list[tuple[bytes, bytes]]] = {}
    for topic in sorted(topics):
        for stream in _lanes(names, topic):
            if stream not in consumed:
                start = await _first_unhandled(source, stream, groups.get(stream, []))
                if start is not None:
                    found.setdefault(topic, []).append((stream, start))
    return found


async def _first_unhandled(source: Side, stream: bytes, steps: Iterable[str]) -> bytes | None:
    """Return the id of the first entry that is needed; None: all have been handled by each step that read the stream."""
    places = [LanePlace(stream, source.names.entries(stream, step), step) for step in steps]
    lanes = [lane for lane in await administration.inspect_lane(source.router, places) if lane is not None]
    if not lanes:
        return b"-"
    oldest = [lane.oldest for lane in lanes if lane.oldest]
    return min(oldest, key=order) if oldest else None


async def _stored_messages(target: Side) -> AsyncIterator[_Thing]:
    for partition in range(target.names.layout.partitions):
        key = target.names.topics(partition)
        for topic in await target.router.execute(key, "SMEMBERS", key):
            for stream in _lanes(target.names, topic):
                async for _, fields in _entries(target.router, stream, b"-"):
                    yield _Thing(topic.decode(errors="replace"), stream, _flat(fields))


def _add_message(names: Keyspace, thing: _Thing) -> list[_Command]:
    topics = names.topics(partition_of(thing.key))
    topic = thing.key.partition(_TOPIC)[2].partition(b":")[2]
    return [(topics, ("SADD", topics, topic)), (thing.key, ("XADD", thing.key, "*", *thing.parts))]


def _topic_stream(names: Keyspace, topic: bytes, fields: Mapping[bytes, bytes]) -> bytes:
    """Return the stream of a message: that of its key, or of its id, as `enqueue` chooses it."""
    return names.topic(topic, names.lane(fields.get(b"key") or fields.get(b"request", b"").partition(b"-")[2]))


def _lanes(names: Keyspace, topic: bytes) -> list[bytes]:
    return [names.topic(topic, lane) for lane in range(names.layout.lanes)]


# -- delayed messages and schedules -----------------------------------------------------------------------------------


async def _delayed(side: Side, names: Keyspace) -> AsyncIterator[_Thing]:
    """Yield the delayed messages of one side, as they are to be at the target."""
    for partition in range(side.names.layout.partitions):
        due, delayed = side.names.due(partition), side.names.delayed(partition)
        page: list[tuple[bytes, int]] = []
        async for member, score in _members(side.router, due):
            if member.startswith(MEMBER):
                page.append((member.removeprefix(MEMBER), score))
            if len(page) >= _PAGE:
                async for thing in _records(side.router, delayed, page, names):
                    yield thing
                page = []
        async for thing in _records(side.router, delayed, page, names):
            yield thing


async def _records(router: Router, delayed: bytes, page: list[tuple[bytes, int]], names: Keyspace) -> AsyncIterator[_Thing]:
    texts: list[bytes | None] = await router.execute(delayed, "HMGET", delayed, *(message for message, _ in page)) if page else []
    for (message, score), text in zip(page, texts, strict=True):
        record = None if text is None else DelayedRecord.decode(text)
        if record is not None:
            lane = names.lane(record.key or message.partition(b"-")[2])
            key = names.delayed(names.partition(record.topic))
            yield _Thing(record.topic.decode(errors="replace"), key, (message, record.encode(lane), b"%d" % score))


def _add_delayed(names: Keyspace, thing: _Thing) -> list[_Command]:
    message, record, score = thing.parts
    due = names.due(partition_of(thing.key))
    return [(thing.key, ("HSET", thing.key, message, record)), (due, ("ZADD", due, score, MEMBER + message))]


async def _schedules(side: Side, names: Keyspace) -> AsyncIterator[_Thing]:
    """Yield the schedules of one side, as they are to be at the target."""
    for step in _cron_steps(side):
        stream = side.names.cron(step)
        hash_of_step, due = side.names.schedules(stream, step), side.names.due(partition_of(stream))
        for schedule, record in sorted((await side.router.execute(hash_of_step, "HGETALL", hash_of_step)).items()):
            score = await side.router.execute(due, "ZSCORE", due, _member(step, schedule))
            key = names.schedules(names.cron(step), step)
            yield _Thing(step, key, (schedule, record, b"" if score is None else b"%d" % int(float(score))))


def _add_schedule(names: Keyspace, thing: _Thing) -> list[_Command]:
    schedule, record, score = thing.parts
    due = names.due(partition_of(thing.key))
    member = _member(thing.label, schedule)
    commands: list[_Command] = [(thing.key, ("HSET", thing.key, schedule, record))]
    return [*commands, (due, ("ZADD", due, score, member))] if score else commands


def _member(step: str, schedule: bytes) -> bytes:
    """Return the member of a schedule, as lua/lib/schedules.lua does."""
    name = step.encode()
    return b"schedule:%d:%b%b" % (len(name), name, schedule)


def _cron_steps(side: Side) -> list[str]:
    return sorted(step for step, stream in side.known.lanes if stream == side.names.cron(step))


async def _members(router: Router, due: bytes) -> AsyncIterator[tuple[bytes, int]]:
    """Yield what falls due in a partition, with its times, which must not change meanwhile."""
    at = 0
    while page := await router.execute(due, "ZRANGE", due, at, at + _MEMBERS - 1, "WITHSCORES"):
        pairs = page if isinstance(page[0], list | tuple) else list(zip(page[::2], page[1::2], strict=True))  # RESP3, or 2
        for member, score in pairs:
            yield member, int(float(score))
        at += len(pairs)


# -- dead letters -----------------------------------------------------------------------------------------------------


async def _letters(source: Side, names: Keyspace) -> AsyncIterator[_Thing]:
    """Yield the dead letters of each step, the oldest first, with the streams that their entries have at the target."""
    for step in sorted(set().union(*source.known.steps)):
        dead = [source.names.dead(source.names.scopes(number), step) for number in range(source.names.layout.partitions)]
        sources = [_entries(source.router, stream, b"-") for stream in dead]
        async for _, fields in merge(sources, lambda entry: int(entry[1].get(b"time", b"0"))):
            stream = _stream_of(names, step, fields)
            parts = _flat({**fields, b"stream": stream})
            yield _Thing(step, names.dead(stream, step), parts)


async def _stored_letters(target: Side) -> AsyncIterator[_Thing]:
    for partition, steps in enumerate(target.known.steps):
        for step in sorted(steps):
            stream = target.names.dead(target.names.scopes(partition), step)
            async for _, fields in _entries(target.router, stream, b"-"):
                yield _Thing(step, stream, _flat(fields))


def _add_letter(names: Keyspace, thing: _Thing) -> list[_Command]:
    leases = names.leases(thing.key)
    # The step has no lanes yet: on record as forgotten, its letters are found. `lua/drop_dead_letters.lua` removes the record.
    record = (leases, ("HSET", leases, f"forgotten {thing.label}", ""))
    return [record, (thing.key, ("XADD", thing.key, "*", *thing.parts))]


def _stream_of(names: Keyspace, step: str, fields: Mapping[bytes, bytes]) -> bytes:
    """Return the stream at the target of a letter's entry."""
    stream = fields.get(b"stream", b"")
    if is_cron(stream):
        return names.cron(step)
    if b"topic" in fields:
        return _topic_stream(names, fields[b"topic"], fields)
    if b"scope" in fields and b"key" in fields:
        return names.state_keys(fields[b"scope"], fields[b"key"]).events
    return names.events(0, 0)  # the entry was trimmed before the step gave up: the letter cannot be retried


# -- streams ----------------------------------------------------------------------------------------------------------


async def _entries(router: Router, stream: bytes, start: bytes) -> AsyncIterator[tuple[bytes, Mapping[bytes, bytes]]]:
    """Yield the entries of a stream, from `start` on."""
    while page := await router.execute(stream, "XRANGE", stream, start, "+", "COUNT", _PAGE):
        for entry_id, fields in page:
            yield entry_id, fields
        if len(page) < _PAGE:
            return
        start = b"(" + page[-1][0]


def _flat(fields: Mapping[bytes, bytes]) -> tuple[bytes, ...]:
    return tuple(part for field in fields.items() for part in field)
