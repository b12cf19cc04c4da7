"""Plant the troubles that a person on call must find: with real processes, on a real Redis.

    async with plant("stuck-key", server.url, namespace) as trouble:
        answer = await run_command(server, namespace, "doctor")
        assert all(word in answer.stdout for word in trouble.expected)

`TROUBLES` names all of them. Each takes a namespace of its own. Inside of the block the trouble is there and goes on; behind it,
all processes are gone, and the options of the server are as before. What was written stays in the namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis
from redis.exceptions import OutOfMemoryError

from motia_redis import Layout, StateManager
from motia_redis.admin import read_status
from tests.support.applications import Command
from tests.support.clocks import set_namespace_clock
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from motia_redis.admin import Status

    Plant = Callable[["_Site"], Awaitable[tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class Trouble:
    """Describe a trouble that was planted."""

    name: str  #: one of `TROUBLES`
    planted: str  #: what is wrong, in a sentence
    finding: str  #: the check of `motia-redis doctor` that must name it; "": none
    expected: tuple[str, ...]  #: words that a right answer has: step, scope, key, topic, process, number


@dataclass(frozen=True, slots=True)
class _Kind:
    planted: str
    finding: str
    plant: Plant
    needs: str = "server"  #: "own server": options of the server change; "cluster": the URL is one of a Cluster


class _Site:
    """Hold where a trouble is planted, and what it needs."""

    def __init__(self, url: str, namespace: str, folder: Path, stack: contextlib.AsyncExitStack) -> None:
        self.url = url
        self.namespace = namespace
        self.folder = folder
        self.stack = stack

    async def state(self, **options: Any) -> StateManager:
        """Return a manager of the namespace."""
        return await self.stack.enter_async_context(StateManager(self.url, namespace=self.namespace, **options))

    async def worker(self, source: str, *options: str) -> Command:
        """Start a worker process for the steps of a Python text; return when it is ready."""
        path = self.folder / f"steps_{os.urandom(4).hex()}.py"
        path.write_text(source)
        arguments = [path.name, "--redis", self.url, "--namespace", self.namespace, *options]
        command = Command(self.folder, "worker", *arguments)
        self.stack.callback(command.__exit__)  # also if it does not get ready
        return await asyncio.to_thread(command.__enter__)

    async def stop(self, worker: Command) -> None:
        """Stop a worker as a service manager does."""
        assert await asyncio.to_thread(worker.stop) == 0, worker.output

    def program(self, source: str) -> subprocess.Popen[str]:
        """Start a Python program with the URL and the namespace as its arguments; return it at once."""
        process = subprocess.Popen(
            [sys.executable, "-c", source, self.url, self.namespace],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
        )

        def end() -> None:
            process.kill()
            process.communicate()

        self.stack.callback(end)
        return process

    async def until_status(self, state: StateManager, holds: Callable[[Status], bool], what: str) -> None:
        """Wait until the status of the namespace is as it should be."""

        async def check() -> bool:
            return holds(await read_status(state))

        await until(check, what)


# -- stuck keys -------------------------------------------------------------------------------------------------------

_CHARGE = """
import asyncio
from motia_redis import state, step

@step({"name": "Charge", "triggers": [state(scope="payments")], "max_attempts": 100, "backoff": 0.05})
async def charge(input, ctx):
    if input.item_id == "order-13":
        await ctx.state.update("attempts", "order-13", [{"type": "increment", "path": "n", "by": 1}])
        await fail()
"""
_REFUSED = """
async def fail():
    raise ConnectionError("the bank does not answer")
"""
_HANGING = """
async def fail():
    await asyncio.Event().wait()
"""


async def _stuck_key(site: _Site) -> tuple[str, ...]:
    state = await site.state()
    await site.worker(_CHARGE + _REFUSED)
    await _charge(state)

    async def tried() -> bool:
        return (await state.get("attempts", "order-13") or {}).get("n", 0) >= 5

    await until(tried, "five attempts at the stuck key")
    return "Charge", "payments", "order-13"


async def _hanging_handler(site: _Site) -> tuple[str, ...]:
    state = await site.state()
    await site.worker(_CHARGE + _HANGING)
    await _charge(state)
    await site.until_status(state, lambda status: any(step.pending >= 3 for step in status.steps), "the changes of the key wait")
    return "Charge", "payments", "order-13"


async def _charge(state: StateManager) -> None:
    for number in range(3):
        await state.set("payments", "order-13", {"amount": number})
    for number in range(20, 40):
        await state.set("payments", f"order-{number}", {"amount": number})


# -- dead letters -----------------------------------------------------------------------------------------------------

_MAIL = """
from motia_redis import queue, step

@step({"name": "Mail", "triggers": [queue("mail")], "max_attempts": 1})
async def mail(data):
    if data["number"] % 3:
        raise PermissionError("the mail server rejects the password")
"""


async def _dead_letter_wave(site: _Site) -> tuple[str, ...]:
    state = await site.state()
    await site.worker(_MAIL)
    for number in range(60):
        await state.enqueue("mail", {"number": number})
    await site.until_status(state, lambda status: any(step.dead_letters == 40 for step in status.steps), "40 dead letters")
    return "Mail", "PermissionError", "40"


# -- lanes and versions -----------------------------------------------------------------------------------------------

_SHIP = """
from motia_redis import queue, state, step

@step({"name": "Ship", "triggers": [state(scope="orders")]})
async def ship(input, ctx): ...
"""
_SHIP_RETURNS = _SHIP.replace('[state(scope="orders")]', '[state(scope="orders"), queue("returns")]')
#: A worker of another release of the library: it announces another version.
_OLD_RELEASE = """
from motia_redis._worker import membership

membership.__version__ = "0.0.9"
"""


async def _unwanted_lanes(site: _Site) -> tuple[str, ...]:
    state = await site.state()
    await site.stop(await site.worker(_SHIP_RETURNS))
    for number in range(5):
        await state.enqueue("returns", number)
    await site.worker(_SHIP)
    await site.until_status(state, lambda status: any(step.lanes_unwanted for step in status.steps), "lanes are unwanted")
    return "Ship", "returns"


async def _two_versions(site: _Site) -> tuple[str, ...]:
    state = await site.state()
    old = await site.worker(_SHIP + _OLD_RELEASE)
    await site.worker(_SHIP_RETURNS)
    await site.until_status(state, lambda status: any(len(step.versions) > 1 for step in status.steps), "two versions are alive")
    return "Ship", "topic returns", "0.0.9", str(old.process.pid)


async def _paused_worker(site: _Site) -> tuple[str, ...]:
    state = await site.state()
    paused = await site.worker(_SHIP, "--lease", "1")
    await site.worker(_SHIP, "--lease", "1")
    await site.until_status(
        state, lambda status: sum(any(worker.lanes.values()) for worker in status.workers) == 2, "both workers have lanes"
    )
    paused.process.send_signal(signal.SIGSTOP)
    await site.until_status(state, lambda status: len(status.workers) == 1, "the lease of the paused worker has run out")
    return str(paused.process.pid), socket.gethostname()


async def _no_worker(site: _Site) -> tuple[str, ...]:
    state = await site.state()
    killed = await site.worker(_SHIP, "--lease", "1")
    await site.until_status(state, lambda status: any(step.lanes_held for step in status.steps), "the worker has its lanes")
    killed.process.kill()
    for number in range(3):
        await state.set("orders", f"order-{number}", number)
    await site.until_status(state, lambda status: not status.workers, "the lease of the killed worker has run out")
    return "Ship", str(killed.process.pid)


# -- the server -------------------------------------------------------------------------------------------------------


async def _full_redis(site: _Site) -> tuple[str, ...]:
    state = await site.state()
    await site.worker(_SHIP)
    await state.set("orders", "order-1", 1)
    client = site.stack.enter_context(redis.Redis.from_url(site.url))
    before = client.config_get("maxmemory")["maxmemory"]
    ballast = f"ballast:{site.namespace}"

    def empty() -> None:
        client.config_set("maxmemory", before)
        client.delete(ballast)

    site.stack.callback(empty)
    client.config_set("maxmemory", client.info("memory")["used_memory"] + 32_000_000)

    async def is_full() -> bool:  # buffers of clients shrink a little later, and leave room
        for size in (100_000, 1_000):
            with contextlib.suppress(OutOfMemoryError):
                while True:
                    client.rpush(ballast, "x" * size)
        await asyncio.sleep(0.2)
        memory = client.info("memory")
        return memory["used_memory"] > 0.995 * memory["maxmemory"]

    await until(is_full, "the server stays full")
    return "memory", "full"


# -- times and topics -------------------------------------------------------------------------------------------------

_REPORT = """
from motia_redis import cron, step

@step({"name": "Report", "triggers": [cron("0 8 * * *")]})
async def report(input): ...
"""


async def _late_schedule(site: _Site) -> tuple[str, ...]:
    state = await site.state()
    worker = await site.worker(_REPORT)
    await site.until_status(
        state,
        lambda status: any(each.next_in is not None for step in status.steps for each in step.schedules),
        "the schedule has its next time",
    )
    await site.stop(worker)
    await set_namespace_clock(state, 2 * 86_400)  # as if nobody had been there for two days
    return "Report", "0 8 * * *"


async def _unread_topic(site: _Site) -> tuple[str, ...]:
    state = await site.state()
    await site.worker(_SHIP)
    for number in range(12):
        await state.enqueue("audit", {"number": number})
    return "audit", "12"


# -- keys and layouts -------------------------------------------------------------------------------------------------

_COUNT = """
import sys, time
from motia_redis.sync import StateManager

with StateManager(sys.argv[1], namespace=sys.argv[2]) as state:
    turn = 0
    while True:
        state.update("counters", "visits", [{"type": "increment", "path": "n", "by": 1}])
        turn += 1
        if turn % 20 == 0:
            state.set("orders", f"order-{turn % 1000}", turn)
        time.sleep(0.004)
"""


async def _hot_key(site: _Site) -> tuple[str, ...]:
    state = await site.state()
    await site.worker(_SHIP)
    site.program(_COUNT)

    async def counted() -> bool:
        return (await state.get("counters", "visits") or {}).get("n", 0) >= 300

    await until(counted, "the key was changed 300 times")
    return "counters", "visits"


_OTHER_LAYOUT = """
import asyncio, sys
from motia_redis import Layout, StateManager

async def main():
    async with StateManager(sys.argv[1], namespace=sys.argv[2], layout=Layout(64, 4)) as state:
        await state.set("orders", "order-1", 1)

asyncio.run(main())
"""


async def _wrong_layout(site: _Site) -> tuple[str, ...]:
    await site.state()
    await site.worker(_SHIP)
    rejected = site.program(_OTHER_LAYOUT)
    output, _ = await asyncio.to_thread(rejected.communicate, timeout=60)
    assert "LayoutMismatch" in output
    return "Layout(partitions=64, lanes=4)", "Layout(partitions=16, lanes=8)", str(rejected.pid)


async def _small_layout(site: _Site) -> tuple[str, ...]:
    state = await site.state(layout=Layout(partitions=2, lanes=2))
    await state.set("orders", "order-1", 1)
    return "2 partitions", "copy --to-layout"


async def _healthy(site: _Site) -> tuple[str, ...]:
    state = await site.state()
    await site.worker(_SHIP_RETURNS + _REPORT)
    await site.worker(_SHIP_RETURNS + _REPORT)
    for number in range(200):
        await state.set("orders", f"order-{number}", {"number": number})
        await state.enqueue("returns", number)
    await state.enqueue("returns", "tomorrow", delay=86_400)
    await site.until_status(
        state,
        lambda status: (
            len(status.workers) == 2
            and all(sum(worker.lanes.values()) for worker in status.workers)  # not while lanes go over to the second one
            and all(step.lanes_held == step.lanes and not step.lag + step.pending for step in status.steps)
            and any(each.next_in is not None for step in status.steps for each in step.schedules)
        ),
        "both workers have handled everything",
    )
    return ()


_KINDS = {
    "stuck-key": _Kind(
        "The handler of step Charge raises at each attempt at key order-13 of scope payments; later changes of the key wait.",
        "stuck-keys",
        _stuck_key,
    ),
    "hanging-handler": _Kind(
        "The handler of step Charge never returns for key order-13 of scope payments; later changes of the key wait.",
        "stuck-keys",
        _hanging_handler,
    ),
    "dead-letter-wave": _Kind(
        "Two thirds of the messages of topic mail become dead letters of step Mail, because of a PermissionError.",
        "dead-letters",
        _dead_letter_wave,
    ),
    "unwanted-lanes": _Kind(
        "A new version of step Ship has no trigger for topic returns any more, whose messages wait for ever.",
        "unwanted-lanes",
        _unwanted_lanes,
    ),
    "full-redis": _Kind("Redis has reached its maxmemory and rejects writes.", "memory", _full_redis, needs="own server"),
    "paused-worker": _Kind("One of two workers was stopped by SIGSTOP.", "workers", _paused_worker),
    "no-worker": _Kind("The only worker of step Ship was killed, and events wait.", "lanes", _no_worker),
    "two-versions": _Kind(
        "Two versions of step Ship run side by side, and one worker has release 0.0.9 of the library.", "versions", _two_versions
    ),
    "late-schedule": _Kind("Schedule 0 8 * * * of step Report is due, and no process fires it.", "schedules", _late_schedule),
    "unread-topic": _Kind("Topic audit has 12 messages, and no step consumes it.", "unread-topics", _unread_topic),
    "hot-key": _Kind(
        "Key visits of scope counters is changed about 200 times a second, other keys now and then.", "hot-keys", _hot_key
    ),
    "wrong-layout": _Kind(
        "A process asks for 64 partitions of 4 lanes and ends with LayoutMismatch: the namespace has 16 of 8.",
        "layout",
        _wrong_layout,
    ),
    "small-layout": _Kind(
        "The namespace has 2 partitions, and the Cluster more primaries.", "layout", _small_layout, needs="cluster"
    ),
    "healthy": _Kind("Nothing is wrong: two workers, and all is handled.", "", _healthy),
}

#: All names, by what the URL must be: "server": any; "own server": of a server whose options may change; "cluster".
TROUBLES: dict[str, str] = {name: kind.needs for name, kind in _KINDS.items()}


@asynccontextmanager
async def plant(name: str, url: str, namespace: str) -> AsyncIterator[Trouble]:
    """Plant a trouble of `TROUBLES`, and wait until it is there. It takes up to about 5 s."""
    kind = _KINDS[name]
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="motia-trouble-")))
        expected = await kind.plant(_Site(url, namespace, folder, stack))
        yield Trouble(name, kind.planted, kind.finding, expected)
