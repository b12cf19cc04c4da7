"""Follow changes for one browser, from cursor to cursor: through overflows, outages and gaps.

All browsers share the one blocking read that the watches of an event loop have. What waits for a slow one is bounded: then its
watch ends, and it reads on from the history at its own pace.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from motia_redis._store.ends import between, read_end
from motia_redis._store.watch_items import Change
from motia_redis.errors import HistoryForked, HistoryGone, StateError, StateUnavailable, WatchOverflow

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from typing import Self

    from motia_redis._store.ends import Between
    from motia_redis._store.manager import StateManager
    from motia_redis._store.watch import Watch
    from motia_redis._store.watch_items import WatchItem

    #: live: all is here. behind: the history is read. away: Redis does not answer.
    Word: TypeAlias = Literal["live", "behind", "away"]

KINDS = ("created", "updated", "deleted", "expired", "ttl")  #: of changes, as a person chooses them

_BUFFER_ITEMS = 1000  # that wait for one browser
_BUFFER_BYTES = 4 * 1024 * 1024
_BATCH = 50  # items of one message
_LOOK = 1.0  # seconds between two looks whether Redis answers
_STALE = 3.0  # seconds without an answer after which Redis is said to be away
_PATIENCE = 4.0  # seconds in which a watch begins
_PAUSE = 1.0  # seconds between two attempts
_MOVE = 1.0  # seconds between two messages that only say how far the browser has come


@dataclass(frozen=True, slots=True)
class Choice:
    """Which changes a browser asked for; an empty text: all."""

    scope: str
    key: str
    prefix: str
    kinds: frozenset[str]

    def watch(self, state: StateManager, start: str) -> Watch:
        """Return a watch that yields these changes among others. Raises WatchMisused, InvalidName, InvalidCursor."""
        key, prefix = (self.key or None, self.prefix or None) if self.scope else (None, None)
        return state.watch(self.scope or None, key, prefix, start=start, buffer_items=_BUFFER_ITEMS, buffer_bytes=_BUFFER_BYTES)

    def shows(self, change: Change) -> bool:
        """Return whether a change of that watch is one of these."""
        key = change.key
        is_named = self.key in ("", key) and key.startswith(self.prefix)
        return is_named and (not self.kinds or kind_of(change) in self.kinds)


def kind_of(change: Change) -> str:
    """Return which of `KINDS` a change is."""
    return "expired" if change.reason == "expired" else change.type.removeprefix("state:")


@dataclass(frozen=True, slots=True)
class Message:
    """What a browser is told. `cursor`: where it goes on after this; "": where it was."""

    cursor: str
    word: Word | None = None  #: how it stands from now on
    changes: list[Change] = field(default_factory=list)
    gap: Between | None = None  #: what cannot be shown
    is_forked: bool = False  #: whether the server has lost it, too
    failure: str = ""  #: why this is the last message


class Follower:
    """Follow the changes of a choice from a cursor on; "": from now."""

    def __init__(self, state: StateManager, choice: Choice, start: str) -> None:
        self._state = state
        self._choice = choice
        self._start = start
        self._word: Word | None = None  # that was told last
        self._loss: HistoryGone | HistoryForked | None = None  # since `_start`, not told yet
        self._gap: Message | None = None  # not told yet
        self._moved = 0.0  # when the last message with a cursor was made

    async def messages(self) -> AsyncGenerator[Message]:
        """Yield messages until the caller closes this, or one with a failure. `aclose` leaves nothing behind."""
        while True:
            try:
                async with contextlib.AsyncExitStack() as stack:
                    reading = await self._begin(stack)
                    if self._gap is not None:
                        yield self._gap
                        self._gap = None
                    while True:
                        for message in await self._read(reading):
                            yield message
            except (HistoryGone, HistoryForked) as error:
                self._loss = error
            except WatchOverflow:
                for message in self._say("behind"):
                    yield message
            except (StateUnavailable, TimeoutError):
                for message in self._say("away"):
                    yield message
                await asyncio.sleep(_PAUSE)
            except StateError as error:
                yield Message(self._start, failure=str(error))
                return

    async def _begin(self, stack: contextlib.AsyncExitStack) -> _Reading:
        """Begin a watch where the browser is; after a loss, or without a cursor, at the end."""
        async with asyncio.timeout(_PATIENCE):
            if self._loss is not None or not self._start:
                end = await read_end(self._state, self._choice.scope or None)
                if self._loss is not None:
                    is_forked = isinstance(self._loss, HistoryForked)
                    self._gap = Message(end, gap=between(self._start, end), is_forked=is_forked)
                self._start, self._loss = end, None
            return await stack.enter_async_context(_Reading(self._choice.watch(self._state, self._start)))

    async def _read(self, reading: _Reading) -> list[Message]:
        """Wait a little for changes. Return what the browser is told."""
        has_items = await reading.wait()
        messages = self._say(reading.word())
        if has_items:
            items = reading.take()
            self._start = items[-1].cursor
            changes = [item for item in items if isinstance(item, Change) and self._choice.shows(item)]
            if changes or time.monotonic() - self._moved > _MOVE:
                self._moved = time.monotonic()
                messages.append(Message(self._start, changes=changes))
        return messages

    def _say(self, word: Word) -> list[Message]:
        if word == self._word:
            return []
        self._word = word
        return [Message(self._start, word)]


class _Reading:
    """Read a watch, and look meanwhile whether Redis answers."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._task: asyncio.Task[WatchItem] | None = None
        self._received = time.monotonic()

    async def __aenter__(self) -> Self:
        await self._watch.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        task, self._task = self._task, None
        if task is not None and not task.cancel() and not task.cancelled():
            task.exception()  # retrieved
        await self._watch.close()  # last: whoever cancels this may do so again at each wait

    async def wait(self) -> bool:
        """Wait a second for items. Return whether some are there."""
        if self._task is None:
            self._task = asyncio.create_task(self._watch.__anext__())
        done, _ = await asyncio.wait([self._task], timeout=_LOOK)
        return bool(done)

    def take(self) -> list[WatchItem]:
        """Return items after `wait`. Raises the error of the watch."""
        task, self._task = self._task, None
        if task is None:
            return []
        items = [task.result(), *self._watch.waiting(_BATCH - 1)]
        self._received = time.monotonic()
        return items

    def word(self) -> Word:
        """Return how the reader stands."""
        age = self._watch.age
        if age is not None:
            return "live" if age < _STALE else "away"
        return "behind" if time.monotonic() - self._received < _STALE else "away"
