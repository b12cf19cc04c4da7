"""A scope in this process that follows the one in Redis: what `mirror` of the sync `StateManager` returns."""

from __future__ import annotations

from collections.abc import ItemsView, Mapping, ValuesView
from typing import TYPE_CHECKING

from motia_redis._store.watch_items import T_co
from motia_redis._sync import loop_thread
from motia_redis._sync.ownership import Owner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Self

    from motia_redis._store.mirror import Mirror as AsyncMirror
    from motia_redis._store.watch_items import Change


class Mirror(Mapping[str, T_co]):
    """Hold the values of a scope in this process, by key. A mapping that cannot be written to; it needs no Redis to be read.

    Use it as `with state.mirror("flags") as flags:`, and read it in any thread. The values are those of the scope at one moment
    and later ones, key by key in the order of the changes. While Redis is away the mirror keeps what it has, and `age` grows. An
    object or array is decoded by each access: it is the caller's own, and changing it changes nothing else. What has expired is
    not shown. The keys, values and items are those of the moment at which they are asked for.
    """

    def __init__(self, mirror: AsyncMirror[T_co]) -> None:
        self._mirror = mirror
        self._owner = Owner(mirror)

    def __repr__(self) -> str:
        return repr(self._mirror)

    def __enter__(self) -> Self:
        loop_thread.refuse_inside_loop("mirror")
        self._owner.enter()
        loop_thread.run("mirror", self._mirror.__aenter__)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._owner.is_here:
            loop_thread.run("mirror", self._mirror.__aexit__, kind, error, traceback)

    def __getitem__(self, key: str) -> T_co:
        """Return the value of a key. Raises KeyError, Stale, CorruptValue, and the error that has ended the mirror."""
        self._owner.check()
        return self._mirror[key]

    def __contains__(self, key: object) -> bool:
        self._owner.check()
        return key in self._mirror

    def __iter__(self) -> Iterator[str]:
        """Yield the keys. Raises as a read does."""
        return iter(self._keys())

    def __len__(self) -> int:
        return len(self._keys())

    def items(self) -> ItemsView[str, T_co]:
        """Return the keys and values of this moment, all decoded."""
        return self._copy().items()

    def values(self) -> ValuesView[T_co]:
        """Return the values of this moment, all decoded."""
        return self._copy().values()

    def _keys(self) -> list[str]:
        self._owner.check()
        while True:
            try:
                return list(self._mirror)
            except RuntimeError:  # a change came meanwhile
                continue

    def _copy(self) -> dict[str, T_co]:
        found = {}
        for key in self._keys():
            try:
                found[key] = self._mirror[key]
            except KeyError:  # deleted meanwhile
                continue
        return found

    @property
    def cursor(self) -> str:
        """Return the cursor of the last change that is here."""
        return self._mirror.cursor

    @property
    def age(self) -> float:
        """Return the seconds since all that had happened was last known to be here: at most about one while Redis answers."""
        return self._mirror.age if self._owner.is_here else float("inf")

    def read(self, key: str) -> T_co | None:
        """Return the value of a key, None if there is none: from here, or from Redis if the mirror is older than `max_age`."""
        self._owner.check()
        return loop_thread.run("read", self._mirror.read, key)

    def reached(self, revision: str) -> None:
        """Wait until the mirror has the change with this revision, and all that were made before this call.

        So a process reads its own writes. It waits while Redis is away. Cost: one round trip. Raises the error that has ended
        the mirror.
        """
        self._owner.check()
        loop_thread.run("reached", self._mirror.reached, revision)

    def on_change(self, callback: Callable[[Change[T_co]], object]) -> Callable[[], None]:
        """Call `callback` with each change after it is here, in the thread of the event loop. Return a function that ends that.

        It must not block, and so not call a `StateManager`. What it raises is logged.
        """
        return self._mirror.on_change(callback)
