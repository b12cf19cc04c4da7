"""Copies whose process is killed again and again: nothing is lost or doubled, between servers and into a Cluster."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest
import redis

from motia_redis import Layout, StateManager, queue
from motia_redis.admin import DeadLetters, Scheduled
from tests.support.clusters import Cluster
from tests.support.copies import Writers, finish, stored
from tests.support.dead_letters import FailingHandler, failing_step, wait_for_dead_letters
from tests.support.servers import RedisServer, packaged
from tests.support.workers import Recorder, record, working

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

MESSAGES = 500


def start_copy(source: str, target: str, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "motia_redis", "copy", "--redis", source, "--namespace", "moved", "--to", target, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


async def run_copy(source: str, target: str, *options: str) -> str:
    process = start_copy(source, target, *options)
    output, errors = await asyncio.to_thread(process.communicate, timeout=120)
    assert process.returncode == 0, (output, errors)
    return output.decode()


class Nodes:
    """The servers of the copy, as plain clients see them."""

    def __init__(self, url: str) -> None:
        addresses = [f"redis://{part}" for part in url.removeprefix("redis+cluster://").split(",")] if "cluster" in url else [url]
        self._clients = [redis.Redis.from_url(address) for address in addresses]

    def mark(self) -> dict[bytes, bytes]:
        """Return how far the copy has come."""
        for client in self._clients:
            with contextlib.suppress(redis.ResponseError):  # another node has it
                return client.hgetall("moved:layout")
        raise AssertionError("no node has the layout")

    def has_come(self, phase: str, partition: int = 0) -> bool:
        mark = self.mark()
        return mark.get(b"copy.phase") == phase.encode() and int(mark[b"copy.partition"]) >= partition

    def has(self, pattern: str, least: int = 1) -> bool:
        """Return whether streams, or hashes, with such names hold so much."""
        count = 0
        for client in self._clients:
            for name in client.scan_iter(f"{{moved:*}}:{pattern}", count=10_000):
                count += client.xlen(name) if client.type(name) == b"stream" else client.hlen(name)
        return count >= least

    def values(self) -> dict[tuple[bytes, bytes], bytes]:
        return {name: text for client in self._clients for name, text in stored(client, "moved").items()}

    def let_go(self) -> None:
        """Let the hold of a process that was killed run out at once."""
        for client in self._clients:
            with contextlib.suppress(redis.ResponseError):
                client.delete("moved:copying")

    def close(self) -> None:
        for client in self._clients:
            client.close()


async def kill_copy(nodes: Nodes, source: str, target: str, when: Callable[[], bool], *options: str) -> None:
    """Kill a copy as soon as something has come so far."""
    process = start_copy(source, target, *options)
    try:
        while not when():
            assert process.poll() is None, process.communicate()
            await asyncio.sleep(0)
    finally:
        process.kill()
        process.communicate()
    nodes.let_go()


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[StateManager]:
    """A namespace on Redis 6.2 with values, messages, delayed messages and dead letters."""
    home = tmp_path / "source"
    home.mkdir()
    with RedisServer(home, program=packaged("redis-6.2")) as server:
        async with StateManager(server.url, namespace="moved") as state:
            for number in range(100):
                await state.set_many(f"filled{number}", {f"key{key}": "x" * 500 for key in range(100)})
            async with working(state, failing_step(FailingHandler(), "Fails", queue("bad"))):
                for number in range(20):
                    await state.enqueue("bad", number)
                await wait_for_dead_letters(DeadLetters(state), 20)
            for number in range(MESSAGES):
                await state.enqueue("unread", number, key=f"key{number % 5}")
                await state.enqueue("later", number, delay=1000)
            yield state


@pytest.fixture(params=["redis-8.2", "cluster"])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of the copy."""
    home = tmp_path / "other"
    home.mkdir()
    if request.param == "cluster":
        with Cluster(home) as cluster:
            yield cluster.url
    else:
        with RedisServer(home, program=packaged(request.param)) as server:
            yield server.url


async def finish_back(moved: StateManager, url: str) -> None:
    """Copy the copy to another namespace of the first server, in a third layout: a Cluster can be a source, too."""
    done = await finish(moved, url, "back", Layout(7, 2))
    assert (done.is_finished, done.differences) == (True, [])
    assert [part.target for part in done.compared[1:]] == [0, MESSAGES, 0, 20]
    with redis.Redis.from_url(url) as client, contextlib.closing(Nodes(moved.url)) as nodes:
        assert stored(client, "back") == nodes.values()


@pytest.mark.alone
async def test_copy_that_is_killed_again_and_again_loses_and_doubles_nothing(source: StateManager, other: str) -> None:
    with contextlib.closing(Nodes(other)) as nodes:
        async with Writers(source, 5):
            for when in (
                partial(nodes.has, "state:*"),
                partial(nodes.has, "state:*", 3000),
                partial(nodes.has_come, "values", 4),
                partial(nodes.has_come, "values", 12),
                partial(nodes.has_come, "changes"),
            ):
                await kill_copy(nodes, source.url, other, when, "--to-layout", "64x4")
            await run_copy(source.url, other, "--once")
        for when in (
            partial(nodes.has, "topic:*"),
            partial(nodes.has, "topic:*", MESSAGES // 2),
            partial(nodes.has, "dead:*", 5),
            partial(nodes.has, "delayed", MESSAGES // 2),
            partial(nodes.has, "delayed", MESSAGES),
        ):
            assert not nodes.has_come("finished")
            await kill_copy(nodes, source.url, other, when, "--finish")
        assert "is finished" in await run_copy(source.url, other, "--finish")
        with contextlib.closing(Nodes(source.url)) as source_nodes:
            assert nodes.values() == source_nodes.values()
    async with StateManager(other, namespace="moved") as moved:
        assert (await moved.connect()).layout.partitions == 64
        assert await Scheduled(moved).count() == MESSAGES
        assert await DeadLetters(moved).count("Fails") == 20
        recorder = Recorder()
        async with working(moved, record(recorder, queue("unread"))):
            for number in range(5):
                await moved.enqueue("unread", "last", key=f"key{number}")
            await recorder.wait(MESSAGES + 5)
        await finish_back(moved, source.url)
    numbers = [each for each in recorder.inputs if each != "last"]
    assert {key: [each for each in numbers if each % 5 == key] for key in range(5)} == {
        key: list(range(key, MESSAGES, 5)) for key in range(5)
    }
