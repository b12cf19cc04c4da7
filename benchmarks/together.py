"""Measure what happens together: transactions, `get_many` and `set_many`, one call at a time, against redis-py and single calls.

The rivals promise less: `MULTI/EXEC` sends the same writes (value, revision, event) without checks; `WATCH` reads the
values, changes them in Python and sends them in `MULTI/EXEC`, again if somebody else changed one. The server's time is what Redis
counts for the commands.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import redis.asyncio

from benchmarks.common import machine, program
from benchmarks.common.rounds import Spread, order, ratio
from benchmarks.common.server import Server, find_server
from benchmarks.common.tables import figure, markdown, with_quartiles
from motia_redis import StateManager
from motia_redis._store import effects

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable, Sequence

    from motia_redis.types import Operation

EXAMPLES = """examples:
  python -m benchmarks.together --quick
  python -m benchmarks.together
"""
ROUNDS = 20
SIZES = (2, 10, 50)
SIZES_OF = {"reads": (*SIZES, 1000), "increments of a handler": (10,)}
SCOPE, VALUES, EVENTS = "{bench}/accounts", "rival:values", "rival:events"
VALUE = {"name": "someone", "n": 1000}
INCREMENT: list[Operation] = [{"op": "increment", "path": "/n", "value": 1}]


class Calls:
    """The contenders of one size, each an async function that changes or reads `size` keys."""

    def __init__(self, state: StateManager, rival: Any, size: int) -> None:
        self.state, self.rival = state, rival
        self.keys = [f"key{number}" for number in range(size)]
        self._events = itertools.count(size * 10**9)

    async def prepare(self) -> None:
        """Write all values."""
        await self.state.set_many(SCOPE, dict.fromkeys(self.keys, VALUE), atomic=False)
        await self.rival.hset(VALUES, mapping=dict.fromkeys(self.keys, json.dumps(VALUE)))

    async def updates_in_a_transaction(self) -> None:
        """Increment a member of each value."""
        async with self.state.transaction() as tx:
            for key in self.keys:
                tx.update(SCOPE, key, INCREMENT)

    async def updates_one_by_one(self) -> None:
        """Do the same by single calls."""
        for key in self.keys:
            await self.state.update(SCOPE, key, INCREMENT)

    async def updates_as_effects(self) -> None:
        """Do the same as a handler of a step with `effects_once`, with all calls for one event."""
        place = (self.state.url, self.state.namespace)
        event = effects.EventEffects(b"%016x" % next(self._events), place=place, lifetime=10_000, is_first=True)
        effects.enter(effects.Effects(event))
        await self.updates_one_by_one()
        effects.enter(None)

    async def watch_loop(self) -> None:
        """Do the same by redis-py's optimistic locking."""
        async with self.rival.pipeline() as pipeline:
            while True:
                try:
                    await pipeline.watch(VALUES)
                    texts = await pipeline.hmget(VALUES, self.keys)
                    values = [json.loads(text or "{}") for text in texts]
                    pipeline.multi()
                    for key, value in zip(self.keys, values, strict=True):
                        self._write(pipeline, key, json.dumps({**value, "n": value["n"] + 1}))
                    await pipeline.execute()
                except redis.WatchError:
                    continue
                return

    async def sets_in_a_transaction(self) -> None:
        """Store each value."""
        await self.state.set_many(SCOPE, dict.fromkeys(self.keys, VALUE))

    async def sets_one_by_one(self) -> None:
        """Do the same by single calls."""
        for key in self.keys:
            await self.state.set(SCOPE, key, VALUE)

    async def multi_exec(self) -> None:
        """Write values and events by redis-py."""
        async with self.rival.pipeline() as pipeline:
            for key in self.keys:
                self._write(pipeline, key, json.dumps(VALUE))
            await pipeline.execute()

    async def get_many(self) -> None:
        """Read all values."""
        await self.state.get_many(SCOPE, self.keys)

    async def gets_one_by_one(self) -> None:
        """Do the same by single calls."""
        for key in self.keys:
            await self.state.get(SCOPE, key)

    async def hmget(self) -> None:
        """Read all values by redis-py."""
        [json.loads(text) for text in await self.rival.hmget(VALUES, self.keys)]

    def _write(self, pipeline: Any, key: str, text: str) -> None:
        pipeline.xadd(EVENTS, {"type": "state:updated", "key": key, "new": text}, maxlen=1000, approximate=True)
        pipeline.hset(VALUES, key, text)
        pipeline.hset("rival:revisions", key, "1700000000000-0")


GROUPS: dict[str, dict[str, Callable[[Calls], Awaitable[None]]]] = {
    "increments": {
        "transaction": Calls.updates_in_a_transaction,
        "update, one by one": Calls.updates_one_by_one,
        "redis-py, WATCH": Calls.watch_loop,
    },
    "sets": {
        "transaction": Calls.sets_in_a_transaction,
        "set, one by one": Calls.sets_one_by_one,
        "redis-py, MULTI/EXEC": Calls.multi_exec,
    },
    "increments of a handler": {"effects once": Calls.updates_as_effects, "without": Calls.updates_one_by_one},
    "reads": {"get_many": Calls.get_many, "get, one by one": Calls.gets_one_by_one, "redis-py, HMGET": Calls.hmget},
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = _options(arguments)
    with Server(options.server or find_server()) as server:
        result = asyncio.run(measure(server, options.rounds))
    print(text(result))
    if options.publish:
        program.publish(program.Tables(text), "together", result, result["settings"]["redis"], options)


async def measure(server: Server, rounds: int) -> dict[str, Any]:
    """Run all groups and return their figures."""
    found: list[dict[str, Any]] = []
    rival: Any = redis.asyncio.Redis(unix_socket_path=server.socket)
    try:
        async with StateManager(server.url, namespace="bench") as state:
            for group in GROUPS:
                for size in SIZES_OF.get(group, SIZES):
                    program.progress(f"{size} {group}")
                    calls = Calls(state, rival, size)
                    await calls.prepare()
                    found += await measure_group(server, calls, group, rounds)
    finally:
        await rival.aclose()
    return {"machine": machine.describe(), "settings": {"redis": server.version, "rounds": rounds}, "figures": found}


async def measure_group(server: Server, calls: Calls, group: str, rounds: int) -> list[dict[str, Any]]:
    """Let the contenders of a group alternate; return the microseconds of a call and of the server for each."""
    contenders, size = GROUPS[group], len(calls.keys)
    servers: dict[str, list[float]] = {name: [] for name in contenders}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    repeats = max(3, 200 // size)
    for turn in range(rounds + 1):  # the first one loads scripts and is left out
        for name in order(contenders, turn):
            before, start = server_microseconds(server), time.perf_counter()
            for _ in range(repeats):
                await contenders[name](calls)
            elapsed = time.perf_counter() - start
            if turn:
                times[name].append(elapsed * 1e6 / repeats)
                servers[name].append((server_microseconds(server) - before) / repeats)
    own = next(iter(contenders))
    return [
        {
            "group": group,
            "size": size,
            "name": name,
            "call": Spread.of(times[name]).as_dict(),
            "server": Spread.of(servers[name]).as_dict(),
            "call ratio": ratio(times[own], times[name]).as_dict(),
            "server ratio": ratio(servers[own], servers[name]).as_dict(),
        }
        for name in contenders
    ]


def server_microseconds(server: Server) -> float:
    """Return the time that the server has counted for commands: also for those of an EXEC, so without EXEC itself."""
    stats = server.client.info("commandstats")
    return float(sum(entry["usec"] for name, entry in stats.items() if name not in ("cmdstat_info", "cmdstat_exec")))


def text(result: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    head = ["keys", "what", "by", "µs a call", "first / this", "server µs", "first / this"]
    rows = [
        [
            f"{row['size']}",
            row["group"],
            row["name"],
            figure(row["call"]["median"]),
            with_quartiles(row["call ratio"]),
            figure(row["server"]["median"]),
            with_quartiles(row["server ratio"]),
        ]
        for row in result["figures"]
    ]
    return f"{machine.conditions(result)}\n{markdown(head, rows, text_columns=3)}"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = program.new_parser("together", __doc__, EXAMPLES, rounds=ROUNDS, quick="5 rounds")
    return program.read_options(parser, arguments)


if __name__ == "__main__":
    sys.exit(program.run(main))
