"""Where the lanes of a namespace end: a cursor without a watch, and how much lies between two cursors."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from motia_redis._store.cursors import Cursor, end_of, order
from motia_redis._store.feed import look_at_lanes

if TYPE_CHECKING:
    from motia_redis._store.manager import StateManager
    from motia_redis._store.retries import Attempt
    from motia_redis._store.sessions import Session


class Between(NamedTuple):
    """What lies between two cursors."""

    since: float  #: Unix time in seconds of the last change that the first one has seen; 0: it has seen none
    entries: int | None  #: changes of all keys in the lanes of the second; None: the two cannot be compared


async def read_end(state: StateManager, scope: str | None) -> str:
    """Return a cursor at which a watch of a scope, or of all, shows what happens from now on. Raises StateUnavailable.

    It also fits a watch of one key. Cost: one read for each partition, at the same time.
    """

    async def read(session: Session, _: Attempt) -> str:
        names = session.keyspace
        partitions = range(names.layout.partitions) if scope is None else [names.partition(scope.encode())]
        found = await asyncio.gather(*(look_at_lanes(session.router, names, partition) for partition in partitions))
        places = {
            partition: {lane: end_of(position) for lane, position in lanes.items()}
            for partition, (_, lanes) in zip(partitions, found, strict=True)
        }
        return Cursor(names.namespace, (names.layout.partitions, names.layout.lanes), places).encode()

    return await state._retries.run("all scopes" if scope is None else f"scope {scope!r:.200}", read, operation="watch")


def between(first: str, second: str) -> Between:
    """Return what lies between two cursors. Raises InvalidCursor."""
    old, new = Cursor.decode(first), Cursor.decode(second)
    times = [order(position.id)[0] for lanes in old.places.values() for position in lanes.values()]
    entries = 0
    for partition, lanes in new.places.items():
        for lane, position in lanes.items():
            seen = old.places.get(partition, {}).get(lane)
            if seen is not None:  # a cursor of one key has one lane
                entries += position.number - seen.number
    is_comparable = (old.namespace, old.layout) == (new.namespace, new.layout)
    return Between(max(times, default=0) / 1000, entries if is_comparable and entries >= 0 else None)
