"""Copy a namespace to another Redis, namespace or layout, while the application goes on."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import orjson

from motia_redis._admin import copy_others
from motia_redis._admin.comparing import MOST_NAMED, Compared, compare_values
from motia_redis._admin.connections import open_router
from motia_redis._admin.copy_others import Side
from motia_redis._admin.copy_target import open_copy, open_target
from motia_redis._admin.copy_values import ValueCopy
from motia_redis._admin.status import read_status
from motia_redis._store import namespaces
from motia_redis._store.copy_marks import CopyMark
from motia_redis._store.cursors import Cursor
from motia_redis._store.history import History
from motia_redis._store.moving import Mover
from motia_redis.errors import HistoryForked, HistoryGone, StateError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from motia_redis._admin.copy_target import CopyTarget
    from motia_redis._store.manager import StateManager

_log = logging.getLogger("motia_redis.state")

_PAUSE = 0.2  # seconds between two looks at a source that does not change
_REPORT = 1.0  # seconds between two reports of how far the copy is behind


class CopyProgress(NamedTuple):
    """Hold how far a copy has come."""

    #: "values": they are copied. "changes": changes are followed. "comparing": both sides are read.
    phase: Literal["values", "changes", "comparing"]
    done: int  #: values that were read; with "changes": 0
    total: int  #: about how many values there are; with "changes": events of the source that are not copied yet


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedCopy:
    """Say what became of a call of `finish_copy`."""

    is_finished: bool  #: whether the target may be used
    obstacles: list[str] = field(default_factory=list)  #: workers that run, and steps that have not handled everything
    compared: list[Compared] = field(default_factory=list)  #: counts and checksums by kind; none if there were obstacles
    #: What has changed at the source since everything was copied, by name: the writers have not stopped.
    late: list[str] = field(default_factory=list)

    @property
    def differences(self) -> list[str]:
        """Return what differs between source and target, by name."""
        return [difference for part in self.compared for difference in part.differences]


async def copy_changes(
    source: StateManager,
    target: StateManager,
    *,
    follow: bool = False,
    again: bool = False,
    progress: Callable[[CopyProgress], object] | None = None,
    equal: Callable[[], object] | None = None,
) -> None:
    """Copy all values, with the times at which they expire, and their changes, until the target has what the source has.

    The source may be used meanwhile, and is not changed. The target must not exist, be empty, or be a copy of the same source:
    then the call goes on where an earlier one ended, however that was. Until `finish_copy` no other process can open the
    target: LayoutMismatch. Each value is stored in one atomic step with an event whose `reason` is `copy`, for which no trigger
    fires; revisions are new. A key gets the values of its source in order, though not each of them. Transactions are torn
    meanwhile.

    Arguments:
        source: the manager of the namespace that is copied.
        target: a manager that has not connected. Its `layout` is that of the target; None: that of the source.
        follow: go on following changes until the task is cancelled.
        again: copy and compare each value again, and delete what the source does not have.
        progress: takes how far the copy has come, about once a second or more often.
        equal: is called once, when the target has what the source had a moment before.

    Cost: about that of an export and an import; constant memory. If the source trims events before they are copied, all values
    are copied again, and what the source does not have is deleted. Raises StateError if the source is empty, the target is in
    use, or another process copies; LayoutMismatch, SettingsMismatch, StateUnavailable; HistoryForked if the source has lost
    writes.
    """
    async with open_target(source, target, again=again) as place:
        if place.mark.is_finished:
            raise StateError(f"copy: namespace {target.namespace!r} is a copy of {place.mark.source} that is finished")
        while True:
            try:
                async with _copying(source, place, progress) as copy:
                    await copy.catch_up()
                    if equal is not None:
                        equal()
                        equal = None
                    if not follow:
                        return
                    await _follow(copy, progress)
            except HistoryGone:  # events were trimmed that were not copied
                await _begin_again(source, place)
            except HistoryForked as error:
                raise _forked(error) from None


async def finish_copy(
    source: StateManager,
    target: StateManager,
    *,
    again: bool = False,
    progress: Callable[[CopyProgress], object] | None = None,
) -> FinishedCopy:
    """Copy what is left, compare both sides, and let the target be used.

    Call it when all writers of the source have stopped, its steps have handled everything (`read_status` shows no lag), and its
    workers have ended. It does what `copy_changes` does; then it copies the messages of topics that no step consumes, delayed
    messages, which keep their ids and times, schedules, and dead letters. Then it compares counts and checksums of all of these,
    and looks whether the source has changed meanwhile. If workers run, something is not handled, differs or has changed, the
    target stays closed, and the result says what; call it again. After an end at any point the next call leaves nothing out and
    doubles nothing.

    For a copy that is finished already it only says what has changed at the source since.

    Arguments: those of `copy_changes`. Cost: besides the changes, it reads all values of both sides, and all messages, delayed
    messages and dead letters. Raises what `copy_changes` raises.
    """
    async with open_target(source, target, again=again) as place:
        if place.mark.is_finished:
            return await _look_for_late_changes(source, target, place.mark)
        while True:
            try:
                async with _copying(source, place, progress) as copy:
                    await copy.catch_up()
                    return await _finish(source, place, copy, progress)
            except HistoryGone:
                await _begin_again(source, place)
            except HistoryForked as error:
                raise _forked(error) from None


async def compare_copy(
    source: StateManager, target: StateManager, *, progress: Callable[[CopyProgress], object] | None = None
) -> Compared:
    """Compare the values of a source and its copy, byte by byte, and change nothing.

    While writers go on, values may be named that have changed during the call. Cost: it reads all values of both sides; constant
    memory. Raises StateError if there is no such copy, LayoutMismatch, StateUnavailable.
    """
    await open_copy(target)
    return await compare_values(source, target, compared=_reporter(progress, "comparing"))


# -- values and changes -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def _copying(
    source: StateManager, place: CopyTarget, progress: Callable[[CopyProgress], object] | None
) -> AsyncIterator[ValueCopy]:
    """Yield the copy of the values when all of them have been copied once."""
    copy = ValueCopy(source, await source.connect(), place, scanned=_reporter(progress, "values"))
    try:
        if place.mark.phase != "changes":
            await copy.scan()
        yield copy
    finally:
        await copy.aclose()


async def _follow(copy: ValueCopy, progress: Callable[[CopyProgress], object] | None) -> None:
    reported = 0.0
    while True:
        is_equal = await copy.follow()
        if progress is not None and time.monotonic() - reported > _REPORT:
            progress(CopyProgress("changes", 0, await copy.behind()))
            reported = time.monotonic()
        if is_equal:
            await asyncio.sleep(_PAUSE)


async def _begin_again(source: StateManager, place: CopyTarget) -> None:
    _log.warning("copy: events of the source were trimmed before they were copied: all values are copied again")
    cursor = (await Mover(source, "copy").ends()).encode()
    await place.save(CopyMark(place.mark.source, cursor, "repair"))


def _forked(error: HistoryForked) -> HistoryForked:
    return HistoryForked(
        f"copy: {error.args[0].partition(': start with')[0]}: check that the source has what it should have, and copy it again "
        "with --again (in code: again=True)"
    )


def _reporter(
    progress: Callable[[CopyProgress], object] | None, phase: Literal["values", "comparing"]
) -> Callable[[int, int], object] | None:
    return None if progress is None else lambda done, total: progress(CopyProgress(phase, done, total))


# -- the end ----------------------------------------------------------------------------------------------------------


async def _finish(
    source: StateManager, place: CopyTarget, copy: ValueCopy, progress: Callable[[CopyProgress], object] | None
) -> FinishedCopy:
    obstacles = await _find_obstacles(source)
    if obstacles:
        return FinishedCopy(is_finished=False, obstacles=obstacles)
    target = place.state
    names, target_names, settings = await source.connect(), await target.connect(), await source.settings()
    async with open_router(source, "copy") as router, open_router(target, "copy") as target_router:
        await namespaces.change_settings(target_router, target.namespace, settings, in_copy=True)
        sides = await Side.read(router, names), await Side.read(target_router, target_names)
        await copy_others.copy_others(*sides)
        place.check()
        await copy.catch_up()
        compared = [await compare_values(source, target, compared=_reporter(progress, "comparing"))]
        sides = await Side.read(router, names), await Side.read(target_router, target_names)
        compared += await copy_others.compare_others(*sides)
        obstacles, late = await _find_obstacles(source), await _changes_after(source, copy.cursor())
        is_finished = not (obstacles or late or any(part.differences for part in compared))
        if is_finished:
            others = {part.kind: [part.source, part.source_checksum] for part in compared[1:]}
            await copy.save(replace(place.mark, phase="finished", others=orjson.dumps(others).decode()))
    return FinishedCopy(is_finished=is_finished, obstacles=obstacles, compared=compared, late=late)


async def _find_obstacles(source: StateManager) -> list[str]:
    """Return why the source is not at rest: live workers, and steps that have something to handle."""
    status = await read_status(source)
    found = [
        f"step {step.name!r} has not handled {'' if step.lag_exact else 'more than '}{step.lag + step.pending:,} entries: let "
        "its workers handle them, or forget the step or its unwanted lanes (`motia-redis steps forget`)"
        for step in status.steps
        if step.lag or step.pending
    ]
    return found + [
        f"a worker runs: process {worker.pid} on {worker.host}: stop it once `motia-redis status` shows no lag"
        for worker in status.workers
    ]


async def _changes_after(source: StateManager, cursor: Cursor) -> list[str]:
    """Return the names of the keys that have changed after a cursor. Raises HistoryGone, HistoryForked."""
    history = History(source._retries, "copy", await source.connect(), cursor.places, joins=False, mark=None)
    names: dict[tuple[bytes, bytes], int] = {}
    while not history.at_end:
        for _, events in (await history.read()).values():
            for event in events:
                if event.scope is not None:
                    names[event.scope, event.key] = names.get((event.scope, event.key), 0) + 1
    texts = [
        f"scope {scope.decode(errors='replace')!r:.200} key {key.decode(errors='replace')!r:.200}: {count:,} changes"
        for (scope, key), count in sorted(names.items())[:MOST_NAMED]
    ]
    return [*texts, f"and {len(names) - MOST_NAMED:,} other keys"] if len(names) > MOST_NAMED else texts


async def _look_for_late_changes(source: StateManager, target: StateManager, mark: CopyMark) -> FinishedCopy:
    """Say what has changed at the source since the copy was finished."""
    try:
        late = await _changes_after(source, Cursor.decode(mark.cursor))
    except (HistoryGone, HistoryForked) as error:
        late = [f"changes, of which the events are gone: {error.args[0].partition(': start with')[0]}"]
    names, target_names = await source.connect(), await target.connect()
    async with open_router(source, "copy") as router:
        now = await copy_others.tally_others(await Side.read(router, names), target_names)
    before = orjson.loads(mark.others)
    for kind, tally in now.items():
        if [tally.count, tally.checksum] != before.get(kind):
            late.append(f"{kind}: {tally.count:,} now, {before.get(kind, [0])[0]:,} when the copy was finished, or other ones")
    return FinishedCopy(is_finished=True, late=late)
