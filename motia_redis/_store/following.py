"""Follow state: watches of changes, and mirrors of scopes."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from motia_redis._store import keyspace
from motia_redis._store.limits import check_seconds
from motia_redis._store.mirror import Mirror
from motia_redis._store.reading import Reading
from motia_redis._store.watch import Watch
from motia_redis._store.watch_options import Selection, WatchOptions, check_count

# What may wait for a mirror, which reads as fast as the event loop lets it.
_MIRROR_ITEMS = 100_000
_MIRROR_BYTES = 64 * 1024 * 1024


class Following(Reading):
    """The methods of `StateManager` that follow changes."""

    def watch(
        self,
        scope: str | None,
        key: str | None = None,
        prefix: str | None = None,
        *,
        start: str = "now",
        on_gap: Literal["error", "resync"] = "error",
        on_overflow: Literal["error", "latest"] = "error",
        buffer_items: int = 10_000,
        buffer_bytes: int = 64 * 1024 * 1024,
    ) -> Watch:
        """Return a watch of the changes of a scope, of one key, of the keys that begin with `prefix`; scope None: of everything.

        Use it as `async with state.watch("carts") as watch:` and `async for item in watch:`. Items are `Change`, `Synced` and
        `Bookmark` of `motia_redis.types`, each with a `cursor`. A bookmark comes when nothing has happened for five seconds.
        The changes of a key come in their order, each once, and the changes of a transaction together (for one `key`: only its
        own). The watch goes on by itself after lost connections, restarts and fail-overs.

        `start` is "now": all changes that are made after the `async with` has begun. "snapshot": first each value that is there,
        once, as a `Change` of the type `state:snapshot`, or the change that has made it meanwhile, then `Synced`, then all later
        changes. Or the cursor of an item: what came after that item; the cursor of an item before `Synced` starts a new snapshot.

        `on_gap` says what happens if events that the watch needs were trimmed, or the server has lost some. "error": `async for`
        raises HistoryGone or HistoryForked. "resync": a new snapshot comes, with a deletion whose reason is `resync` for each
        key that this watch has yielded and that is gone; then `Synced`.

        At most `buffer_items`, and `buffer_bytes` of values, wait for the reader. If they are too many, `on_overflow` "error"
        raises WatchOverflow after the items that wait. "latest" keeps only the last change of each key, and raises WatchOverflow
        if that is not enough.

        Nothing is sent before the `async with`. Cost: one round trip to begin. All watches of an event loop share one blocking
        read; it reads all events of the scope's partition. Raises InvalidName, InvalidCursor, WatchMisused. `async with` raises
        StateUnavailable if Redis is away; `async for` waits until Redis is back.
        """
        selection = Selection(scope, key, prefix).check(self.limits.name_bytes)
        options = WatchOptions(start, on_gap, on_overflow, buffer_items, buffer_bytes).check()
        return Watch(self._sessions, self._retries, selection, options, self._coder)

    def mirror(
        self, scope: str, prefix: str | None = None, *, max_age: float | None = None, max_bytes: int = 64 * 1024 * 1024
    ) -> Mirror:
        """Return a mapping in this process that follows a scope, or its keys that begin with `prefix`.

        Use it as `async with state.mirror("flags") as flags:`; then `flags["beta"]` needs no Redis. While Redis is away the
        mapping keeps what it has. If it was last known to be current more than `max_age` seconds ago, reads raise Stale; None: it
        may have any age. If its values have more than `max_bytes` bytes, MirrorTooLarge is raised, and the mirror has ended.

        Cost: that of a watch with a snapshot, and the memory of the values. Raises InvalidName, WatchMisused; `async with` raises
        StateUnavailable if Redis is away.
        """
        keyspace.encode_name("scope", scope, self.limits.name_bytes)
        selection = Selection(scope, None, prefix).check(self.limits.name_bytes)
        check_count("max_bytes", max_bytes)
        if max_age is not None:
            check_seconds("max_age", max_age, least=0.0)
        options = WatchOptions("snapshot", "resync", "latest", _MIRROR_ITEMS, max(4 * max_bytes, _MIRROR_BYTES))
        watch: Watch[Any] = Watch(self._sessions, self._retries, selection, options, self._coder)
        return Mirror(watch, partial(self.get, scope), max_age=max_age, max_bytes=max_bytes, coder=self._coder)
