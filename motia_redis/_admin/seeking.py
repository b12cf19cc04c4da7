"""Move the place from which a step goes on: handle entries again, or skip entries."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from motia_redis._admin import registry
from motia_redis._admin.connections import open_namespace
from motia_redis._admin.pausing import check_is_known
from motia_redis._scripts import administration
from motia_redis._scripts.administration import LanePlace, Position
from motia_redis._store.entry_ids import before, order
from motia_redis.errors import InvalidTime, StepInUse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from motia_redis._scripts.administration import SoughtLane
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.manager import StateManager
    from motia_redis._transport.router import Router

_PAGE = 1000  # entries that one call counts
_TOLERANCE = 60_000  # milliseconds: a time that is ahead of the server's clock by less is now
_REVISION = re.compile(r"\d{1,15}-\d{1,20}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """Hold what `seek_step` did, or with `dry_run` would do."""

    since: float  #: Unix seconds: entries from here on are handled
    again: int  #: entries that were handled, and are handled again
    skipped: int  #: entries that were not handled, and are not any more
    lanes: int  #: lanes whose position is another one
    lanes_trimmed: int  #: of these, lanes in which entries from `since` on were trimmed: they are handled from what is kept


class _Lane(NamedTuple):
    place: LanePlace
    found: SoughtLane
    moves: bool


async def seek_step(
    state: StateManager, name: str, to: float | datetime | str, *, skip: bool = False, dry_run: bool = False
) -> Sought:
    """Let a step handle everything again from a moment on, as far as it is kept, in the order of each key.

    Workers may run. The holder of a lane keeps it, and can record nothing for its old place. It begins at the new one when the
    handlers have ended that it runs for the lane, and within a heartbeat if none runs. Each partition changes atomically; after
    an error, repeat the call. What is kept from the new place on is not trimmed, up to the hard cap. Dead letters stay. What is
    handled again begins with its first attempt. A step with `effects_once` has its effects again: the records of what was handled
    are gone.

    Arguments:
        state: a manager of the namespace.
        name: the step.
        to: Unix seconds, or a datetime with its time zone: entries that were written then or later are handled. Or a revision:
            that entry, and in other lanes those from the same moment on.
        skip: skip what is not handled and was written before `to`. Else it is handled, too, and only lanes that have come
            further than `to` go back.
        dry_run: only count.

    The numbers include entries of other scopes and keys in the lanes of the step. While workers run they are those of a moment.
    Cost: three round trips; the number of lanes and what is unfinished in them; and the entries counted, in pages of 1,000 of
    each lane. Raises StepMissing, which names the known steps; StepInUse, while a handler runs whose worker has given its lane
    away; InvalidTime; StateUnavailable.
    """
    async with open_namespace(state, f"step {name!r}") as (router, keyspace):
        known = await registry.read(router, keyspace)
        check_is_known(state, known, name)
        first = _first_entry(name, to, known.now)
        target, policy = before(first), _policy(skip=skip)
        streams = {stream for step, stream in known.lanes if step == name} - known.unwanted_lanes(name, keyspace)
        partitions = _partitions(keyspace, name, streams)
        looks = await administration.seek_step(router, partitions, target=target, policy=policy, mode="look")
        lanes = _lanes(partitions, looks, target, skip=skip)
        _check_owners(name, lanes)
        sought = await _count(router, keyspace, lanes, first, skip=skip)
        if not dry_run:
            moves = await administration.seek_step(router, partitions, target=target, policy=policy, mode="move")
            if not all(moved for moved, _ in moves):
                _check_owners(name, _lanes(partitions, moves, target, skip=skip))
    return sought


def _policy(*, skip: bool) -> Literal["keep", "skip"]:
    return "skip" if skip else "keep"


def _first_entry(step: str, to: object, now: int) -> str:
    """Return the smallest id of an entry that is to be handled."""
    if isinstance(to, str) and _REVISION.fullmatch(to):
        first = to
    elif isinstance(to, datetime) and to.utcoffset() is not None:
        first = f"{max(0, math.ceil(to.timestamp() * 1000))}-0"
    elif isinstance(to, int | float) and not isinstance(to, bool) and 0 <= to < 10**12:
        first = f"{math.ceil(to * 1000)}-0"
    else:
        accepted = "Unix seconds, a datetime with a time zone or a revision like '1700000000000-0'"
        raise InvalidTime(f"step {step!r}: `to` must be {accepted}, not {to!r:.80}")
    milliseconds, _ = order(first)
    if milliseconds > now + _TOLERANCE:
        raise InvalidTime(f"step {step!r}: {to!r:.80} is in the future: what is written until then would be skipped")
    return f"{now}-0" if milliseconds > now else first


def _partitions(keyspace: Keyspace, step: str, streams: set[bytes]) -> list[tuple[bytes, list[LanePlace]]]:
    """Return the lanes of a step by the leases' key of their partition."""
    found: defaultdict[bytes, list[LanePlace]] = defaultdict(list)
    for stream in sorted(streams):
        found[keyspace.leases(stream)].append(LanePlace(stream, keyspace.entries(stream, step), step))
    return list(found.items())


def _lanes(
    partitions: Sequence[tuple[bytes, list[LanePlace]]],
    replies: Sequence[tuple[bool, list[SoughtLane | None]]],
    target: str,
    *,
    skip: bool,
) -> list[_Lane]:
    """Return the lanes that have a group, and whether each of them moves."""
    lanes = []
    for (_, places), (_, found) in zip(partitions, replies, strict=True):
        for place, lane in zip(places, found, strict=True):
            if lane is not None:
                moves = skip or order(target) < order(lane.position.decode())
                lanes.append(_Lane(place, lane, moves))
    return lanes


def _check_owners(step: str, lanes: Sequence[_Lane]) -> None:
    """Raise StepInUse if a handler runs whose worker has given the lane away: it cannot be told that the entry runs again."""
    owners = {lane.found.owner.decode(errors="replace") for lane in lanes if lane.moves and lane.found.owner}
    if owners:
        raise StepInUse(
            f"step {step!r} cannot go on elsewhere yet: handlers still run in workers that have given their lanes away "
            f"({', '.join(sorted(owners))}); repeat the call when they have ended"
        )


async def _count(router: Router, keyspace: Keyspace, lanes: Sequence[_Lane], first: str, *, skip: bool) -> Sought:
    """Count what is handled again and what is skipped."""
    target = before(first).encode()
    back, ahead = [], []
    for lane in lanes:
        position = lane.found.position
        if order(target.decode()) < order(position.decode()):
            back.append(Position(lane.place.stream, target, position))
        elif skip:
            ahead.append(Position(lane.place.stream, position, target))
    again = await _entries(router, back) - sum(lane.found.unfinished_after for lane in lanes if lane.moves)
    skipped = await _entries(router, ahead) + sum(lane.found.unfinished_before for lane in lanes if skip)
    trimmed = [(keyspace.trimmed(each.stream), ("HGET", keyspace.trimmed(each.stream), b"floor " + each.stream)) for each in back]
    floors: list[Any] = await router.gather(trimmed) if trimmed else []
    return Sought(
        since=order(first)[0] / 1000,
        again=max(0, again),
        skipped=skipped,
        lanes=sum(lane.moves for lane in lanes),
        lanes_trimmed=sum(floor is not None and order(floor.decode()) > order(first) for floor in floors),
    )


async def _entries(router: Router, positions: list[Position]) -> int:
    """Return the number of entries at all positions. Each round trip counts one page of each."""
    total = 0
    while positions:
        counts = await administration.count_entries(router, positions, limit=_PAGE)
        total += sum(count.entries for count in counts)
        positions = [position._replace(after=count.last) for position, count in zip(positions, counts, strict=True) if count.last]
    return total
