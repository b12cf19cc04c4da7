"""The rate of a step over several worker processes, some of which are killed, or stand still and go on."""

from __future__ import annotations

import asyncio
import signal
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from motia_redis._steps.rates import Rate
from tests.faults.worker_processes import FULL, Load, WorkerProcesses
from tests.worker.test_limits import check_rate

if TYPE_CHECKING:
    import redis

    from motia_redis import StateManager
    from tests.support.servers import RedisServer

pytestmark = pytest.mark.alone

LEASE = 3.0  # seconds; the default


async def test_rate_holds_over_processes_that_are_killed_or_stand_still(
    state: StateManager, raw: redis.Redis, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    events = 1200 if FULL else 600
    load = Load(state, raw, namespace, keys=100)
    application = Path(__file__).parent / "rated_step.py"
    with WorkerProcesses(tmp_path, server.url, namespace, application=application) as workers:
        workers.start(3)
        await workers.ready(3)
        await load.send(events, per_second=1e9)
        await load.recorded(80)
        workers.replace(0)
        await load.recorded(40)
        for _ in range(3):
            workers.processes[1].send_signal(signal.SIGSTOP)
            await asyncio.sleep(1)  # it stands still for more than its tokens are valid, and less than its lease
            workers.processes[1].send_signal(signal.SIGCONT)
            await load.recorded(40)
        workers.replace(2)
        await load.handled(deadline=60)
    load.check_order()
    times = sorted(float(line[2]) for line in load.lines("record"))
    check_rate(times, Rate(40, 1))
    longest = max(later - earlier for earlier, later in pairwise(times))
    took = times[-1] - times[0]
    print(
        f"{len(times)} handled in {took:.1f} s, {len({line[3] for line in load.lines('record')})} processes, gap {longest:.2f} s"
    )
    assert longest < 1, "others go on when a worker dies"
    assert took < len(times) / 40 + 3 * LEASE
