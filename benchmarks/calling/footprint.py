"""Import time of the library, and memory of values in Redis."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import orjson

from benchmarks.calling import values
from benchmarks.common import rounds
from benchmarks.common.results import FOLDER
from benchmarks.common.server import Server
from motia_redis import StateManager

if TYPE_CHECKING:
    from collections.abc import Callable

IMPORTS = {
    "ours": "import motia_redis",
    "its parts": "import redis.asyncio, hiredis, orjson",
    "its manager": "from motia_redis import StateManager",
    "python": "pass",
}
VALUE_BYTES = 200
SETTLED_AFTER = 21.0  # seconds: a stream keeps entries younger than 20 s
_LATER_CHANGES = 2_000
_BATCH = 1_000


def imports(times: int) -> dict[str, Any]:
    """Return the milliseconds of imports in new interpreters, and how much longer ours took than its dependencies."""
    turns = {name: _interpreter(statement) for name, statement in IMPORTS.items()}
    for turn in turns.values():
        turn()  # writes the bytecode, fills the page cache
    figures = rounds.alternate(turns, times)
    excess = [ours - parts for ours, parts in zip(figures["ours"], figures["its parts"], strict=True)]
    return {
        "statements": IMPORTS,
        "milliseconds": {name: rounds.Spread.of(spent).as_dict() for name, spent in figures.items()},
        "excess": rounds.Spread.of(excess).as_dict(),
    }


def memory(binary: str, keys: int, *, settle: bool) -> dict[str, Any]:
    """Return the bytes that values take in Redis: in a plain hash, in ours, and with `settle` in ours after trimming."""
    with Server(binary) as server:
        empty = _used(server)
        for start in range(0, keys, _BATCH):
            texts = {values.key(index): orjson.dumps(values.build(index, VALUE_BYTES)) for index in _batch(start, keys)}
            server.client.hset("plain", mapping=texts)
        found = {"plain hash": _used(server) - empty}
    with Server(binary) as server:
        empty = _used(server)
        asyncio.run(_write(server.url, keys))
        found["ours, just written"] = _used(server) - empty
        if settle:
            time.sleep(SETTLED_AFTER)
            asyncio.run(_write(server.url, _LATER_CHANGES))
            found["ours, settled"] = _used(server) - empty
    return {"keys": keys, "value_bytes": VALUE_BYTES, "bytes": found}


async def _write(url: str, count: int) -> None:
    async with StateManager(url) as state:
        for start in range(0, count, _BATCH):
            each = ((values.key(index), values.build(index, VALUE_BYTES)) for index in _batch(start, count))
            await asyncio.gather(*(state.set("users", key, value) for key, value in each))


def _batch(start: int, end: int) -> range:
    return range(start, min(start + _BATCH, end))


def _used(server: Server) -> int:
    return int(server.client.info("memory")["used_memory"])


def _interpreter(statement: str) -> Callable[[], float]:
    # Allow bytecode files, which installed packages have.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def run() -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True, cwd=FOLDER.parent, env=environment)
        return (time.perf_counter() - begin) * 1000

    return run
