"""Server time of one event, from its write until it is recorded as handled: ours and the bare loop, which acknowledges it.

There are two figures. One is the time of all commands: `eventloop_duration_cmd_sum` of `INFO stats`, which, unlike the sum of
`commandstats`, does not count commands of scripts twice. The other is the CPU time of the redis-server process, which includes
reading requests and writing replies.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from benchmarks.common import rounds
from benchmarks.common.server import cpu_seconds
from benchmarks.triggering.adapters import bare
from benchmarks.triggering.contenders import BARE, OURS

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.triggering.contenders import Contender
    from benchmarks.triggering.harness import Harness

FIGURES = ("commands", "cpu")
_COMMANDS = "eventloop_duration_cmd_sum"  # from Redis 7.2 on
_LAST_RECORDS = 0.2  # seconds to record what is handled after the last handler


def measure_server_time(harness: Harness, events: int, times: int) -> dict[str, Any] | None:
    """Return microseconds per event of ours and of the bare loop, and ours / bare; None if the server is too old."""
    client = harness.server.client
    if _COMMANDS not in client.info("stats"):
        return None
    found: dict[str, dict[str, list[float]]] = {name: {figure: [] for figure in FIGURES} for name in (OURS.name, BARE.name)}

    def turn(contender: Contender, write: Callable[[], None]) -> Callable[[], float]:
        def take() -> float:
            client.flushall()
            client.config_resetstat()
            before = cpu_seconds(client)
            write()
            # keep the worker until it has recorded the last events as handled
            with harness.working(contender, harness.job(contender, events)):
                time.sleep(_LAST_RECORDS)
                commands = client.info("stats")[_COMMANDS] / events
                found[contender.name]["cpu"].append((cpu_seconds(client) - before) * 1e6 / events)
            found[contender.name]["commands"].append(commands)
            return float(commands)

        return take

    turns = {
        OURS.name: turn(OURS, lambda: harness.write(OURS, harness.job(OURS, events))),
        BARE.name: turn(BARE, lambda: bare.write_state(client, events)),
    }
    rounds.alternate(turns, times)
    return {
        "events": events,
        **{name: {figure: rounds.Spread.of(row).as_dict() for figure, row in rows.items()} for name, rows in found.items()},
        "ratio": {figure: rounds.ratio(found[OURS.name][figure], found[BARE.name][figure]).as_dict() for figure in FIGURES},
    }
