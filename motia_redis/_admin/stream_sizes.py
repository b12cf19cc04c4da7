"""Measure the memory of the streams of a namespace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from motia_redis._admin import registry
from motia_redis._admin.connections import open_namespace
from motia_redis._transport.failures import ErrorReply

if TYPE_CHECKING:
    from motia_redis._store.manager import StateManager

_SAMPLES = "5"


async def read_stream_bytes(state: StateManager) -> dict[str, int] | None:
    """Return the bytes of all streams by kind: `events`, `messages` (topics and times that a step consumes), `dead_letters`.

    They are estimated by `MEMORY USAGE`; None: the user may not call it. Only reads. Cost: four round trips; the number of lanes.
    Raises StateUnavailable.
    """
    async with open_namespace(state, "stream sizes") as (router, keyspace):
        known = await registry.read(router, keyspace)
        layout = keyspace.layout
        events = {keyspace.events(partition, lane) for partition in range(layout.partitions) for lane in range(layout.lanes)}
        kinds = {
            "events": events,
            "messages": {stream for _, stream in known.lanes} - events,
            "dead_letters": {
                keyspace.dead(keyspace.events(partition, 0), step)
                for partition, steps in enumerate(known.steps)
                for step in steps
            },
        }
        found = {}
        for kind, streams in kinds.items():
            calls = [(stream, ("MEMORY USAGE", stream, "SAMPLES", _SAMPLES)) for stream in sorted(streams)]
            replies = await router.gather(calls, return_exceptions=True)
            for reply in replies:
                if isinstance(reply, ErrorReply):
                    return None
                if isinstance(reply, Exception):
                    raise reply
            found[kind] = sum(size or 0 for size in replies)
        return found
