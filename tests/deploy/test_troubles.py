"""Planted troubles: each fires its alert in a real Prometheus, from the numbers of real processes, and only then."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from typing import TYPE_CHECKING

import pytest

from motia_redis import Retention, StateManager
from tests.support.applications import Command
from tests.support.deploying import PROMETHEUS
from tests.support.http import port_of
from tests.support.prometheus import Prometheus
from tests.support.servers import RedisServer
from tests.support.waiting import DEADLINE, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# `Gone` and `Tick` run nowhere once `OLD` has ended, and `Changed` has lost a scope.
OLD = """
from motia_redis import cron, queue, state, step

@step({"name": "Gone", "triggers": [queue("gone")]})
async def gone(data): pass

@step({"name": "Tick", "triggers": [cron("* * * * * *")]})
async def tick(input): pass

@step({"name": "Changed", "triggers": [state(scope="a"), state(scope="b")]})
async def changed(input): pass
"""
MAIN = """
import asyncio
from motia_redis import queue, state, step

@step({"name": "Changed", "triggers": [state(scope="b")]})
async def changed(input): pass

@step({"name": "Hangs", "triggers": [queue("hangs")], "timeout": 3600})
async def hangs(data): await asyncio.sleep(3600)

@step({"name": "Fails", "triggers": [queue("fails")], "max_attempts": 1})
async def fails(data): raise ValueError("no")
"""


def impatient() -> str:
    """Return the rules with thresholds and times for a test: what is 2 s late is late, and fires at once."""
    text = (PROMETHEUS / "alerts.yml").read_text()
    text, changed = re.subn(r"> (60|30|10)\b", "> 2", text)
    assert changed == 3
    return re.sub(r"^ +for: .*\n", "", text, flags=re.MULTILINE)


def worker(directory: Path, server: RedisServer, name: str, text: str) -> Command:
    (directory / f"{name}.py").write_text(text)
    return Command(directory, "worker", f"{name}.py", "--redis", server.url, "--metrics", "0")


def wait_for(prometheus: Prometheus, *names: str) -> None:
    """Wait until exactly these alerts fire."""
    wanted = {f"MotiaRedis{name}" for name in names}
    try:
        wait_until(lambda: prometheus.firing() == wanted, f"{sorted(names)} fire", deadline=2 * DEADLINE)
    except AssertionError as error:
        raise AssertionError(f"{error}: these fire: {sorted(prometheus.firing())}") from None


def steps_of(prometheus: Prometheus, name: str) -> set[str]:
    """Return the steps that an alert names."""
    return {each["metric"]["step"] for each in prometheus.query(f'ALERTS{{alertname="MotiaRedis{name}", step!=""}}')}


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process within the block, as a machine that hangs does."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.alone
async def test_each_trouble_fires_its_alert_and_no_other(tmp_path: Path) -> None:
    Prometheus.program()
    with contextlib.ExitStack() as cleanup:
        server = cleanup.enter_context(RedisServer(tmp_path))
        async with StateManager(server.url, retention=Retention(most_entries=100)) as state:
            await state.connect()
            process = cleanup.enter_context(worker(tmp_path, server, "main", MAIN))
            prometheus = cleanup.enter_context(Prometheus(tmp_path, [port_of(process, "metrics")], impatient()))
            wait_until(lambda: prometheus.query("motia_redis_step_dead_letters") != [], "the namespace is read")
            wait_for(prometheus)

            with worker(tmp_path, server, "old", OLD) as old:
                wait_for(prometheus, "TwoVersions")
                assert old.stop() == 0
            # Its lanes are unwanted now, its other steps have no worker, and nobody fires the schedule of one.
            await state.enqueue("fails", 1)
            await state.enqueue("hangs", 1)
            await state.enqueue("nobody", 1)
            for number in range(1000):
                await state.enqueue("gone", number, key="one")
            wait_for(
                prometheus,
                *("LanesUnwanted", "StepWithoutWorker", "ScheduleLate", "DeadLettersGrow"),
                *("EventsUnhandled", "TopicUnread", "EntriesDropped"),
            )
            assert steps_of(prometheus, "LanesUnwanted") == {"Changed"}
            assert steps_of(prometheus, "StepWithoutWorker") == {"Gone", "Tick"}
            assert steps_of(prometheus, "ScheduleLate") >= {"Tick"}
            assert steps_of(prometheus, "DeadLettersGrow") == {"Fails"}
            assert steps_of(prometheus, "EventsUnhandled") >= {"Hangs", "Gone"}

            with stopped(server.pid):
                wait_for(prometheus, "RedisUnavailable")
            wait_until(lambda: "MotiaRedisRedisUnavailable" not in prometheus.firing(), "Redis is back")
            with stopped(process.process.pid):
                wait_for(prometheus, "ProcessDown")
