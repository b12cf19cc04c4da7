"""A scope in this process that follows the one in Redis: what `StateManager.mirror` returns."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from motia_redis._store import codec
from motia_redis._store.keyspace import Subject
from motia_redis._store.watch_items import Change, Synced, T_co
from motia_redis.errors import MirrorTooLarge, Stale, WatchMisused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from types import TracebackType
    from typing import Self

    from motia_redis._store.codec import Coder
    from motia_redis._store.watch import Watch

_log = logging.getLogger("motia_redis.state")

_SCALARS = frozenset({str, int, float, bool, type(None)})
_UNDECODED: Any = object()


class _Entry(NamedTuple):
    text: bytes
    expires_at: float | None
    scalar: Any  #: the value if it cannot be changed, else _UNDECODED


class Mirror(Mapping[str, T_co]):
    """Hold the values of a scope in this process, by key. A mapping that cannot be written to; it needs no Redis to be read.

    Use it as `async with state.mirror("flags") as flags:`. The values are those of the scope at one moment and later ones, key by
    key in the order of the changes. While Redis is away the mirror keeps what it has, and `age` grows. An object or array is
    decoded by each access: it is the caller's own, and changing it changes nothing else. What has expired is not shown.
    """

    def __init__(
        self,
        watch: Watch[T_co],
        read: Callable[[str], Awaitable[T_co | None]],
        *,
        max_age: float | None,
        max_bytes: int,
        coder: Coder[Any] = codec,
    ) -> None:
        self._coder = coder
        self._watch = watch
        self._read = read
        self._max_age = max_age
        self._max_bytes = max_bytes
        self._entries: dict[str, _Entry] = {}
        self._expires = 0  # entries with a time
        self._bytes = 0
        self._cursor = ""
        self._failure: Exception | None = self._unopened()
        self._callbacks: dict[object, Callable[[Change[T_co]], object]] = {}
        self._task: asyncio.Task[None] | None = None
        self._stack = AsyncExitStack()

    def __repr__(self) -> str:
        return f"<Mirror of {self._watch!r}>"

    # -- for the user -------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._watch)
        synced = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._follow(synced))
        try:
            await synced
        except BaseException:
            await self._end()
            raise
        self._failure = None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._end()
        self._failure = self._unopened()

    def __getitem__(self, key: str) -> T_co:
        """Return the value of a key. Raises KeyError, Stale, CorruptValue, SchemaMismatch, and what has ended the mirror."""
        if self._max_age is not None or self._failure is not None:
            self._check()
        text, expires_at, value = self._entries[key]
        if expires_at is not None and expires_at <= time.time():
            raise KeyError(key)
        if value is _UNDECODED:
            value = self._coder.decode(text, subject=Subject(self._watch.scope, key))
        return cast("T_co", value)

    def __contains__(self, key: object) -> bool:
        self._check()
        entry = self._entries.get(key)  # type: ignore[call-overload]  # whatever it is
        return entry is not None and (entry.expires_at is None or entry.expires_at > time.time())

    def __iter__(self) -> Iterator[str]:
        """Yield the keys. Raises as a read does."""
        self._check()
        if not self._expires:
            return iter(self._entries)
        now = time.time()
        return iter([key for key, entry in self._entries.items() if entry.expires_at is None or entry.expires_at > now])

    def __len__(self) -> int:
        self._check()
        return sum(1 for _ in self) if self._expires else len(self._entries)

    @property
    def cursor(self) -> str:
        """Return the cursor of the last change that is here."""
        return self._cursor

    @property
    def age(self) -> float:
        """Return the seconds since all that had happened was last known to be here: at most about one while Redis answers."""
        age = self._watch.age
        return float("inf") if age is None else age

    async def read(self, key: str) -> T_co | None:
        """Return the value of a key, None if there is none: from here, or from Redis if the mirror is older than `max_age`."""
        try:
            return self.get(key)
        except Stale:
            return await self._read(key)

    async def reached(self, revision: str) -> None:
        """Wait until the mirror has the change with this revision, and all that were made before this call.

        So a process reads its own writes. It waits while Redis is away. Cost: one round trip. Raises the error that has ended
        the mirror.
        """
        await self._watch.reached(revision)
        if self._failure is not None:
            raise self._failure

    def on_change(self, callback: Callable[[Change[T_co]], object]) -> Callable[[], None]:
        """Call `callback` with each change after it is here, in this event loop. Return a function that ends that.

        It must not block. What it raises is logged.
        """
        name = object()
        self._callbacks[name] = callback
        return lambda: self._callbacks.pop(name, None) and None

    # -- following ----------------------------------------------------------------------------------------------------

    def _unopened(self) -> WatchMisused:
        return WatchMisused(f"{self!r}: use it inside of 'async with'")

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._max_age is not None and (age := self.age) > self._max_age:
            raise Stale(f"{self!r} was last current {age:.1f} s ago, more than max_age={self._max_age:g}: Redis is away, or slow")

    async def _end(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await self._stack.aclose()

    async def _follow(self, synced: asyncio.Future[None]) -> None:
        try:
            async for item in self._watch:
                if isinstance(item, Change):
                    self._apply(item)
                    continue
                self._cursor = item.cursor
                if isinstance(item, Synced) and not synced.done():
                    synced.set_result(None)
        except Exception as error:  # noqa: BLE001 - whatever it is, a mirror must not fall silent
            self._failure = error
            if not synced.done():
                synced.set_exception(error)

    def _apply(self, change: Change[T_co]) -> None:
        key, text = change.key, change.text
        old = self._entries.get(key)
        if old is not None:
            self._bytes -= len(old.text)
            self._expires -= old.expires_at is not None
        if text is None:
            self._entries.pop(key, None)
        else:
            expires_at = change.expires_at
            self._entries[key] = _Entry(text, expires_at, _scalar(text) if self._coder is codec else _UNDECODED)
            self._bytes += len(text)
            self._expires += expires_at is not None
            if self._bytes > self._max_bytes:
                raise MirrorTooLarge(f"{self!r}: the values have more than max_bytes={self._max_bytes} bytes")
        for callback in tuple(self._callbacks.values()):
            try:
                callback(change)
            except Exception:  # noqa: BLE001 - a callback may raise anything, and the mirror goes on
                _log.exception("%r: on_change raised for key %r", self, key)


def _scalar(text: bytes) -> Any:
    """Return the value of a text if it cannot be changed, else _UNDECODED."""
    if text[:1] in (b"{", b"["):
        return _UNDECODED
    value = codec.decode(text, subject="")
    return value if type(value) in _SCALARS else _UNDECODED
