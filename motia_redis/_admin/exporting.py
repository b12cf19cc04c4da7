"""Write all values to a file, while the application goes on."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from motia_redis._admin import value_lines
from motia_redis._store import expiry, keyspace
from motia_redis._store.moving import Mover
from motia_redis._store.stream_groups import scope_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from motia_redis._store.manager import StateManager

_WRITE_BYTES = 256 * 1024  # that are written at once


@dataclass(frozen=True, slots=True)
class Exported:
    """Say what an export has written."""

    values: int  #: lines with values
    unnamed: int  #: values that were left out, because another client gave them a name that is not UTF-8
    cursor: str  #: of a watch that yields all changes since the export began


async def export_values(
    state: StateManager,
    write: Callable[[bytes], object],
    *,
    scopes: Sequence[str] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Exported:
    """Write the values of some scopes, or of all, as lines of JSON, while changes go on.

    Each value is one that its key had during the export, with the bytes that are stored and the time at which it expires. A value
    that is there all the time is written; it may be written twice, after an outage or while its scope grows. Values that have
    expired are left out. The groups of streams are scopes, too. A watch of the same scopes that starts with the cursor yields
    all changes since the export began. The first line says what the file is, and the last one how many values it has: a file
    without it was cut.

    Arguments:
        state: the manager of the namespace.
        write: takes bytes. It is called in a thread, once at a time, so it may block.
        scopes: the scopes; None: all.
        progress: takes how many values were written, and about how many there are, which costs one more command for each scope.

    Cost: about a millisecond of the server's time for each thousand small values, in pages; constant memory here. Raises
    InvalidName, StateUnavailable, and what `write` raises.
    """
    chosen = None
    if scopes is not None:
        chosen = list(dict.fromkeys(keyspace.encode_name("scope", scope_name(each), state.limits.name_bytes) for each in scopes))
    mover = Mover(state, "export")
    cursor = (await mover.ends(chosen)).encode()
    total = 0 if progress is None else await mover.count(chosen)
    values = unnamed = size = 0
    lines = [value_lines.first_line(state.namespace, scopes)]
    async with aclosing(mover.pages(chosen)) as pages:
        async for scope, page in pages:
            found, missing = _encode(scope, page)
            lines += found
            values, unnamed, size = values + len(found), unnamed + missing, size + sum(map(len, found))
            if size >= _WRITE_BYTES:
                await asyncio.to_thread(write, b"".join(lines))
                lines, size = [], 0
            if progress is not None:
                progress(values, max(total, values))
    lines.append(value_lines.last_line(values, cursor))
    await asyncio.to_thread(write, b"".join(lines))
    return Exported(values, unnamed, cursor)


def _encode(scope: bytes, page: Mapping[bytes, bytes]) -> tuple[list[bytes], int]:
    """Return the lines of a page, and how many values have a name that is not UTF-8."""
    page = expiry.live(page)
    try:
        name = orjson.dumps(scope.decode())
    except UnicodeDecodeError:
        return [], len(page)
    lines, unnamed = [], 0
    for key, text in page.items():
        try:
            lines.append(value_lines.encode_value(name, key, text))
        except UnicodeDecodeError:
            unnamed += 1
    return lines, unnamed
