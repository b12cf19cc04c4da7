"""Read the topics that no step consumes yet: their messages wait for the first step, within the limits of `Retention`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from motia_redis._transport.failures import ErrorReply

if TYPE_CHECKING:
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._transport.router import Router


_AT_ONCE = 100  # topics


@dataclass(frozen=True, slots=True)
class UnreadTopic:
    """Hold a topic without a consumer group, and what waits in it."""

    name: str
    messages: int
    oldest: int  #: when the oldest message was sent, in Unix milliseconds


async def read_unread_topics(router: Router, keyspace: Keyspace) -> list[UnreadTopic]:
    """Return the topics that hold messages and have no consumer group in any lane, sorted by name.

    A topic is on record since a message made its stream. Cost: a round trip for each 1,000 topics of a partition, and three for
    each 100 topics; the number of topics and lanes. Errors are those of redis-py.
    """
    names: set[bytes] = set()
    cursors = dict.fromkeys(map(keyspace.topics, range(keyspace.layout.partitions)), 0)
    while cursors:
        pages = await router.gather([(key, ("SSCAN", key, cursor, "COUNT", 1000)) for key, cursor in cursors.items()])
        names.update(name for _, page in pages for name in page)
        cursors = {key: cursor for key, (cursor, _) in zip(cursors, pages, strict=True) if cursor}
    found: list[UnreadTopic | None] = []
    for start in range(0, len(ordered := sorted(names)), _AT_ONCE):
        found += await asyncio.gather(*(_read(router, keyspace, name) for name in ordered[start : start + _AT_ONCE]))
    return [topic for topic in found if topic is not None]


async def _read(router: Router, keyspace: Keyspace, name: bytes) -> UnreadTopic | None:
    """Return a topic if it holds messages and has no consumer group."""
    streams = [keyspace.topic(name, lane) for lane in range(keyspace.layout.lanes)]
    groups = await router.gather([(stream, ("XINFO GROUPS", stream)) for stream in streams], return_exceptions=True)
    for reply in groups:
        if isinstance(reply, Exception):
            if not isinstance(reply, ErrorReply) or not _is_missing(reply):
                raise reply
        elif reply:
            return None
    lengths = await router.gather([(stream, ("XLEN", stream)) for stream in streams])
    firsts: list[Any] = await router.gather([(stream, ("XRANGE", stream, "-", "+", "COUNT", 1)) for stream in streams])
    ids = [int(entries[0][0].partition(b"-")[0]) for entries in firsts if entries]
    return UnreadTopic(name.decode(errors="replace"), sum(lengths), min(ids)) if ids else None


def _is_missing(reply: ErrorReply) -> bool:
    """Return whether XINFO found no stream: the only error it has without a code of its own."""
    return reply.code == "ERR"
