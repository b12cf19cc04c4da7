"""Calls of `StateManager` by keys per scope, by number of scopes and by size of a value. One server holds all sizes."""

from __future__ import annotations

import gc
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.growing import dataset
from benchmarks.growing.harness import CALLS, opened
from benchmarks.growing.probes import WrongOutcome
from benchmarks.growing.series import Line, Series

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from benchmarks.common.server import Server
    from benchmarks.growing.probes import Operation
    from motia_redis import StateManager, types

VALUE_BYTES = 200
KEYS_IN_EACH = 10  # in each of many scopes, and for each value size
_LISTED = 5000  # minimum number of items in one round
_BYTES = 5_000_000  # maximum bytes of values in one round; events keep them for 20 s
_INCREMENT: list[types.Operation] = [{"op": "increment", "path": dataset.COUNTER, "value": 1}]


def by_keys(server: Server, sizes: Sequence[int], times: int) -> Series:
    """Measure calls by the number of keys per scope."""
    names = {size: [dataset.name(index) for index in range(size)] for size in sizes}
    with opened(server, times) as harness:
        # The largest first: it allocates buffers that would otherwise count as memory of smaller sizes.
        fills = {size: harness.fill([_scope(size)], keys=size, size=VALUE_BYTES) for size in reversed(sizes)}
        state = harness.manager()
        operations = {size: _operations(state, _scope(size), VALUE_BYTES) for size in sizes}
        for size in sizes:
            harness.runner.run(_check(state, _scope(size), VALUE_BYTES, size))
            operations[size]["count"] = _all_of(partial(state.count, _scope(size)), size)
        for name in operations[sizes[0]]:
            harness.run(name, {size: harness.probe(operations[size][name], names[size]) for size in sizes})
        for name, read in {"scan": _scanned, "list": _listed, "list, no gc": _listed_without_gc}.items():
            probes = {}
            for size in sizes:
                operation = _all_of(partial(read, state, _scope(size)), size)
                probes[size] = harness.probe(operation, names[size][:1], calls=max(1, _LISTED // size), items=size)
            harness.run(name, probes, unit="µs per item", warm=False)
        harness.lines.append(
            Line("memory", "bytes per key", 0, {size: [memory] for size, (_, memory) in reversed(fills.items())})
        )
    notes = {f"filling {size:,} keys": f"{seconds:.1f} s" for size, (seconds, _) in fills.items() if seconds > 1}
    return Series("keys", "keys per scope", harness.lines, notes)


def by_scopes(server: Server, sizes: Sequence[int], times: int) -> Series:
    """Measure calls by the number of scopes. Each call uses a random scope and the same key."""
    names = {size: [f"scope{index:07d}" for index in range(size)] for size in sizes}
    key, value = dataset.name(KEYS_IN_EACH // 2), dataset.value(VALUE_BYTES)
    with opened(server, times) as harness:
        gets, sets, groups = {}, {}, {}
        for size in sizes:
            state = harness.manager(f"scopes{size}")
            harness.fill(names[size], keys=KEYS_IN_EACH, size=VALUE_BYTES, namespace=state.namespace)
            harness.runner.run(_check(state, names[size][-1], VALUE_BYTES, KEYS_IN_EACH))
            gets[size] = harness.probe(partial(state.get, key=key), names[size])
            sets[size] = harness.probe(partial(state.set, key=key, value=value), names[size])
            operation = _all_of(partial(_group_count, state), size)
            groups[size] = harness.probe(operation, names[size][:1], calls=max(2, _LISTED // 100 // size), items=size)
        harness.run("get", gets)
        harness.run("set", sets)
        harness.run("list_groups", groups, unit="µs per scope")
        harness.lines += [_whole_call(line) for line in harness.lines[-2:]]
    return Series("scopes", "scopes", harness.lines)


def by_value_size(server: Server, sizes: Sequence[int], times: int) -> Series:
    """Measure calls by the size of values."""
    names = [dataset.name(index) for index in range(KEYS_IN_EACH)]
    with opened(server, times) as harness:
        state = harness.manager()
        operations = {size: _operations(state, _scope(size), size) for size in sizes}
        for size in sizes:
            harness.fill([_scope(size)], keys=KEYS_IN_EACH, size=size)
            harness.runner.run(_check(state, _scope(size), size, KEYS_IN_EACH))
        for name in operations[sizes[0]]:
            probes = {}
            for size in sizes:
                calls = max(8, min(CALLS, _BYTES // size))
                probes[size] = harness.probe(operations[size][name], names, calls=calls)
            harness.run(name, probes, limit=1)
    return Series("value size", "bytes of the value", harness.lines)


def _whole_call(line: Line) -> Line:
    """Return the cost of a whole call, which may grow in proportion to its items."""
    whole = {size: [figure * size for figure in spent] for size, spent in line.figures.items()}
    return Line(line.name.replace("list_groups", "list_groups, whole call"), "µs", 1, whole, line.slack)


def _scope(size: int) -> str:
    return f"scope of {size}"


def _operations(state: StateManager, scope: str, size: int) -> dict[str, Operation]:
    """Return get, set and update of a scope whose values have `size` bytes."""
    value = dataset.value(size)
    return {
        "get": lambda key: state.get(scope, key),
        "set": lambda key: state.set(scope, key, value),
        "update": lambda key: state.update(scope, key, _INCREMENT),
    }


async def _check(state: StateManager, scope: str, size: int, keys: int) -> None:
    """Check that the data set reads like values that `set` wrote, and that calls work. Raises WrongOutcome."""
    key = dataset.name(keys // 2)
    value = dataset.value(size, key)
    found = await state.get(scope, key)
    updated = await state.update(scope, key, _INCREMENT)
    await state.set(scope, key, value)
    entry = await state.entry(scope, key)
    if found != value or updated != value | {"visits": 1} or entry is None or entry.value != value:
        raise WrongOutcome(f"{scope}: get, set or update of {key} had a wrong result")
    if await state.count(scope) != keys:
        raise WrongOutcome(f"{scope} does not hold {keys} keys")


async def _scanned(state: StateManager, scope: str) -> int:
    return sum([1 async for _ in state.scan(scope)])


async def _listed(state: StateManager, scope: str) -> int:
    return len(await state.list(scope))


async def _listed_without_gc(state: StateManager, scope: str) -> int:
    """List without Python's cyclic garbage collector."""
    gc.disable()
    try:
        return len(await state.list(scope))
    finally:
        gc.enable()


async def _group_count(state: StateManager) -> int:
    return len(await state.list_groups())


def _all_of(read: Callable[[], Awaitable[int]], number: int) -> Operation:
    """Return an operation that reads all items and checks their number. It ignores the name that it gets."""

    async def operation(_: str) -> None:
        if (found := await read()) != number:
            raise WrongOutcome(f"{found} items instead of {number}")

    return operation
