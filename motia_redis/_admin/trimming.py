"""Trim streams that no step holds back any more: nobody may write to them again, and only writes trim."""

from __future__ import annotations

from typing import TYPE_CHECKING

from motia_redis._scripts import storage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.settings import Settings
    from motia_redis._transport.router import Router


async def trim_streams(router: Router, keyspace: Keyspace, settings: Settings, streams: Iterable[bytes]) -> None:
    """Trim streams by the settings, each until nothing is left to remove. Cost: a call for each MiB of a stream, and one more."""
    events = set(keyspace.event_streams())
    topic_limits = settings.topic_trimming(keyspace.layout.lanes)
    left = list(streams)
    while left:
        calls = [(stream, keyspace.trimmed(stream), settings.trimming if stream in events else topic_limits) for stream in left]
        removed = await storage.trim_stream_many(router, calls)
        left = [stream for stream, count in zip(left, removed, strict=True) if count]
