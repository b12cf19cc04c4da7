"""Measure the capacity of a Cluster of three primaries, relative to that of one server, from the CPU time of each redis-server.

A machine with few cores cannot run three busy primaries at once. So the capacity is computed: a server can do as many calls in a
second as fit into one second of its CPU time, and a Cluster as many as fit into one second of its busiest primary.

Each primary has the same number of tasks as the one server: CPU time per call depends on how many calls arrive together.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from benchmarks.common import machine, program, work
from benchmarks.common.failures import BenchmarkFailed
from benchmarks.common.goals import Verdict
from benchmarks.common.rounds import Spread, order, ratio
from benchmarks.common.server import Server, cpu_seconds, find_server, free_port
from benchmarks.common.tables import figure, markdown, quartiles, with_quartiles
from benchmarks.triggering import job
from motia_redis import Layout, StateManager

if TYPE_CHECKING:
    from collections.abc import Sequence

    from motia_redis.types import Operation

EXAMPLES = """examples:
  python -m benchmarks.capacity
  python -m benchmarks.capacity --quick
"""
ROUNDS = 6
PRIMARIES, SLOTS, GOAL = 3, 16_384, 2.5
LAYOUT = Layout(partitions=64, lanes=4)  # docs/scale.md, for three nodes
TASKS, SCOPES, CALLS = 64, 6400, 12_800  # tasks for each primary
QUICK_SHARE = 8
WORKS = ("set", "update", "event, one step")
ONE, CLUSTER = "one server", "Cluster"
INCREMENT: list[Operation] = [{"op": "increment", "path": "/n", "value": 1}]
_COMPLETE_SECONDS = 20
_PACKAGES = ("motia-redis", "redis", "hiredis", "orjson", "uvloop")


class Place:
    """A server, or the primaries of a Cluster, and its URL."""

    def __init__(self, servers: Sequence[Server], url: str) -> None:
        self.servers, self.url = servers, url

    def cpu(self) -> list[float]:
        """Return the CPU seconds that each server has used."""
        return [cpu_seconds(server.client) for server in self.servers]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = program.new_parser("capacity", __doc__, EXAMPLES, rounds=ROUNDS, quick="2 short rounds", quick_rounds=2)
    options = program.read_options(parser, arguments)
    binary = options.server or find_server()
    calls = CALLS // QUICK_SHARE if options.quick else CALLS
    with ExitStack() as stack:
        one = stack.enter_context(Server(binary, tcp=True))
        primaries = [start_primary(stack, binary) for _ in range(PRIMARIES)]
        join(primaries)
        places = {
            ONE: Place([one], one.tcp_url),
            CLUSTER: Place([primary for primary, _ in primaries], f"redis+cluster://127.0.0.1:{primaries[0][0].port}"),
        }
        result = measure(places, options.rounds, calls)
    print(text(result))
    if options.publish:
        program.publish(program.Tables(text), "capacity", result, result["settings"]["redis"], options)


def start_primary(stack: ExitStack, binary: str) -> tuple[Server, int]:
    """Start a node of a Cluster; return it with the port of its bus."""
    bus = free_port()
    options = ("--cluster-enabled", "yes", "--cluster-port", str(bus))
    return stack.enter_context(Server(binary, options=options, tcp=True)), bus


def join(primaries: Sequence[tuple[Server, int]]) -> None:
    """Give each node an equal range of slots, and wait until all know each other. Raises BenchmarkFailed."""
    share = -(-SLOTS // len(primaries))
    first, _ = primaries[0]
    for number, (server, bus) in enumerate(primaries):
        server.client.execute_command("CLUSTER ADDSLOTS", *range(number * share, min(SLOTS, (number + 1) * share)))
        server.client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        if number:
            first.client.execute_command("CLUSTER MEET", "127.0.0.1", server.port, bus)
    deadline = time.monotonic() + _COMPLETE_SECONDS
    while not all(is_complete(server, len(primaries)) for server, _ in primaries):
        if time.monotonic() > deadline:
            raise BenchmarkFailed(f"the Cluster was not complete after {_COMPLETE_SECONDS} s")
        time.sleep(0.05)


def is_complete(server: Server, nodes: int) -> bool:
    """Return whether a node serves and knows all nodes."""
    info: dict[str, str] = server.client.execute_command("CLUSTER INFO")
    return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == nodes


def measure(places: dict[str, Place], rounds: int, calls: int) -> dict[str, Any]:
    """Let the server and the Cluster alternate; return microseconds of CPU per call of each server, by round."""
    found: dict[str, dict[str, list[list[float]]]] = {what: {name: [] for name in places} for what in WORKS}
    for number in range(rounds + 1):  # the first one loads scripts and is left out
        program.progress(f"round {number} of {rounds}")
        for name in order(places, number):
            spent = work.run(turn(places[name], calls if number else calls // QUICK_SHARE))
            for what, each in spent.items() if number else ():
                found[what][name].append(each)
    settings = {
        "redis": next(iter(places.values())).servers[0].version,
        "primaries": PRIMARIES,
        "rounds": rounds,
        "calls": f"{calls:,}",
        "tasks": f"{TASKS} for each primary",
        "scopes": f"{SCOPES:,}",
        "layout": f"{LAYOUT.partitions} partitions, {LAYOUT.lanes} lanes",
        "value": f"JSON of {job.VALUE_BYTES:,} bytes",
        "persistence": "off",
        "connection": "TCP",
    }
    return {"machine": machine.describe(_PACKAGES), "settings": settings, "figures": found}


async def turn(place: Place, calls: int) -> dict[str, list[float]]:
    """Return the microseconds of CPU per call that each server spends, by the work."""
    for server in place.servers:
        server.client.flushall()
    tasks = TASKS * len(place.servers)
    async with StateManager(place.url, namespace="bench", layout=LAYOUT) as manager:
        drain = work.Drain(manager, None)
        await work.call(lambda number: manager.set(scope(number), "updated", job.value(0)), tasks=tasks, calls=min(SCOPES, calls))
        found = {}
        before = place.cpu()
        await work.call(lambda number: manager.update(scope(number), "updated", INCREMENT), tasks=tasks, calls=calls)
        found["update"] = difference(before, place.cpu(), calls)
        await drain.prepare()  # from now on events are delivered
        before = place.cpu()
        await work.call(lambda number: manager.set(scope(number), "key", job.value(number)), tasks=tasks, calls=calls)
        found["set"] = difference(before, place.cpu(), calls)
        before = place.cpu()
        await drain.handle(calls)
        found["event, one step"] = difference(before, place.cpu(), calls)
    return found


def difference(before: Sequence[float], after: Sequence[float], calls: int) -> list[float]:
    """Return the microseconds per call between two readings."""
    return [round((last - first) / calls * 1e6, 3) for first, last in zip(before, after, strict=True)]


def scope(number: int) -> str:
    """Return the scope of a call: each has its turn."""
    return f"scope{number % SCOPES}"


def text(result: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    head = [
        "work",
        "CPU a call, one server, µs",
        "CPU a call, Cluster, µs",
        "Cluster / one server",
        "share of the busiest primary",
    ]
    head += ["capacity: Cluster / one server", "quartiles", "goal", "met"]
    rows = []
    for what, found in result["figures"].items():
        one = [sum(each) for each in found[ONE]]
        every = [sum(each) for each in found[CLUSTER]]
        busiest = [max(each) for each in found[CLUSTER]]
        capacity = ratio(one, busiest).as_dict()
        verdict = Verdict(capacity["median"], GOAL, at_least=True)
        rows.append(
            [
                what,
                *(with_quartiles(Spread.of(figures).as_dict()) for figures in (one, every)),
                figure(ratio(every, one).median),
                figure(ratio(busiest, every).median),
                figure(capacity["median"]),
                quartiles(capacity),
                verdict.demand,
                verdict.answer,
            ]
        )
    return f"{machine.conditions(result)}\n{markdown(head, rows)}"


if __name__ == "__main__":
    sys.exit(program.run(main))
