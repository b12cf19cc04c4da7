"""Store the values of a file that `export_values` has written."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal, NamedTuple

from motia_redis._admin import value_lines
from motia_redis._admin.value_lines import LastLine, Refusal
from motia_redis._store.moving import Mover, StoreOptions
from motia_redis.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from motia_redis._store.limits import Limits
    from motia_redis._store.manager import StateManager
    from motia_redis._store.moving import Outcome, StoredValue

_CHUNK_LINES = 1000  # that are read and stored at once
_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class RefusedLine:
    """Name a line that was not imported, and the reason."""

    line: int  #: its number, from 1
    reason: str


@dataclass(frozen=True, slots=True)
class Imported:
    """Say what became of the values of a file. Of a dry run: what would."""

    created: int  #: stored, where no value was
    overwritten: int  #: stored in place of another value
    same: int  #: there already
    kept: int  #: left out, because another value was there
    expired: int  #: left out, because they have expired
    refused: int  #: lines that were refused
    problem: str | None  #: why the file is not complete; None: it is
    cursor: str | None  #: of the file: a watch of the exported namespace that yields all changes since the export began


class _Chunk(NamedTuple):
    """Some lines of a file, decoded."""

    values: list[StoredValue]
    numbers: list[int]  # of their lines
    refused: list[RefusedLine]
    end: LastLine | None
    last: int  # number of the last line
    size: int  # bytes


async def import_values(
    state: StateManager,
    lines: Iterable[bytes],
    *,
    existing: Literal["keep", "overwrite"],
    dry_run: bool = False,
    fire: bool = False,
    first_line: int = 1,
    refused: Callable[[RefusedLine], object] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Imported:
    """Store the values of an exported file, each with an event whose `reason` is `import`.

    State and stream triggers do not fire for these events, unless `fire`. Revisions are new. Each value is stored in one atomic
    step with its event, or not at all. Values that have expired are left out, and a value that is there already has no event. So
    the same call again goes on where it was interrupted. A line that cannot be imported is refused, and the others are stored.

    Arguments:
        state: the manager of the namespace, whose durability and limits hold.
        lines: the lines of the file, such as a file that is open for reading bytes. They are read in a thread.
        existing: what becomes of another value that a key has: "keep" or "overwrite".
        dry_run: check everything and change nothing.
        fire: let triggers fire.
        first_line: the number of the line to begin with; the lines before it were imported.
        refused: takes each line that is refused.
        progress: takes the number of the last line up to which all is stored, and the bytes up to there.

    Cost: a round trip for about a thousand values, constant memory. Raises StateError for lines that do not begin with the first
    line of an export, StateUnavailable, NotDurable, and what reading raises.
    """
    if existing not in ("keep", "overwrite"):
        raise StateError(f"import: existing must be 'keep' or 'overwrite', not {existing!r:.80}")
    mover, options = Mover(state, "import"), StoreOptions(existing, dry_run, fire)
    counts: Counter[Outcome] = Counter()
    reader = _Reader(lines, state.limits, first_line)
    await asyncio.to_thread(reader.check_first_line)
    size = 0
    chunk = await asyncio.to_thread(reader.read)
    while chunk is not None:
        storing = asyncio.create_task(mover.store(chunk.values, options))
        try:
            following = await asyncio.to_thread(reader.read)
            outcomes = await storing
        finally:
            storing.cancel()
            await asyncio.gather(storing, return_exceptions=True)
        counts.update(outcome for outcome, _ in outcomes)
        failed = [
            RefusedLine(number, reason)
            for number, (outcome, reason) in zip(chunk.numbers, outcomes, strict=True)
            if outcome == "refused"
        ]
        counts["refused"] += len(chunk.refused)
        if refused is not None:
            for line in sorted([*chunk.refused, *failed], key=lambda each: each.line):
                refused(line)
        size += chunk.size
        if progress is not None:
            progress(chunk.last, size)
        chunk = following
    cursor = None if reader.end is None else reader.end.cursor
    return Imported(**{name: counts[name] for name in _COUNTED}, problem=reader.problem(), cursor=cursor)


_COUNTED: tuple[Outcome, ...] = ("created", "overwritten", "same", "kept", "expired", "refused")


class _Reader:
    """Read and decode the lines of a file in chunks, each with different keys."""

    def __init__(self, lines: Iterable[bytes], limits: Limits, first_line: int) -> None:
        self._lines: Iterator[bytes] = iter(lines)
        self._limits = limits
        self._first_line = first_line
        self._number = 0  # of the last line that was read
        self._values = 0
        self._held: bytes | None = None  # a line that was read and belongs to the next chunk
        self._size = 0  # of the lines before the first chunk
        self.end: LastLine | None = None  #: what the last line says

    def check_first_line(self) -> None:
        first = next(self._lines, b"")
        value_lines.check_first_line(first)
        self._number, self._size = 1, len(first)
        for line in islice(self._lines, max(self._first_line - 2, 0)):
            self._number, self._values, self._size = self._number + 1, self._values + 1, self._size + len(line)

    def problem(self) -> str | None:
        """Return why the file is not complete."""
        if self.end is None:
            return "the file has no last line: it was cut"
        if self.end.values != self._values:
            return f"the last line counts {self.end.values} values, and the file has {self._values}: some are missing or added"
        return None

    def read(self) -> _Chunk | None:
        """Return the next chunk, or None at the end of the file."""
        values: dict[tuple[bytes, bytes], StoredValue] = {}
        numbers: list[int] = []
        refused: list[RefusedLine] = []
        size = self._size
        while len(numbers) + len(refused) < _CHUNK_LINES and size < _CHUNK_BYTES:
            line, self._held = self._held or next(self._lines, None), None
            if line is None:
                break
            found = self._decode(line)
            if isinstance(found, LastLine):
                self.end = found
            elif isinstance(found, Refusal):
                refused.append(RefusedLine(self._number + 1, str(found)))
            elif (found.scope, found.key) in values:
                self._held = line
                break
            else:
                values[found.scope, found.key] = found
                numbers.append(self._number + 1)
            self._number, size = self._number + 1, size + len(line)
            self._values += not isinstance(found, LastLine)
        if not numbers and not refused and size == 0:
            return None
        self._size = 0
        return _Chunk(list(values.values()), numbers, refused, self.end, self._number, size)

    def _decode(self, line: bytes) -> StoredValue | LastLine | Refusal:
        if self.end is not None:
            return Refusal("the line stands behind the last line of the export")
        try:
            return value_lines.decode_line(line, self._limits)
        except Refusal as refusal:
            return refusal
