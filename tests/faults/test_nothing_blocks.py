"""No call blocks Redis (G8): other clients get answers while large scopes are listed and cleared and streams are trimmed.

There are two measurements. A second process measures the latency of its PINGs, in turns with those to an idle server: what a PING
there takes, the prober or a server has waited for a core. The slow log of the server gives the duration of single commands.
`make chaos` runs the tests with 1,000,000 keys.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
import redis

from motia_redis import StateManager
from motia_redis._store.keyspace import Keyspace, Layout
from motia_redis._store.limits import Retention
from tests.faults.worker_processes import FULL
from tests.support.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from typing import Self

pytestmark = pytest.mark.alone

KEYS = 1_000_000 if FULL else 50_000
CLEARED = 50_000  # a clear makes an event of each; all of them in one command would take 50 ms or more
LONGEST = 5.0  # milliseconds: limit of the duration of a command, and of the p99.9 of the PINGs above that of an idle server
LIST_MEMORY = 1.4  # peak memory of `list`, in multiples of its result: the keys and one page are held, too
MOST_COMMANDS = 1_000_000  # that the slow log holds
SLOW = 1000  # microseconds
ATTEMPTS = 10  # a call that blocks Redis does so in every attempt; a busy machine delays only some of them

SPACE = Keyspace("blocks", Layout())
#: Fills a hash with ARGV[2] values of 200 bytes in canonical JSON, numbered from ARGV[1], and writes their revisions.
_FILL = """
for number = ARGV[1], ARGV[1] + ARGV[2] - 1 do
  local key = string.format("key%07d", number)
  local text = string.format('{"number":%d,"pad":"', number)
  redis.call("HSET", KEYS[1], key, text .. string.rep("x", 195 - #text) .. '"}\\t\\r\\t')
  redis.call("HSET", KEYS[2], key, "1700000000000-" .. number)
end
redis.call("SADD", KEYS[3], ARGV[3])
"""
#: Appends ARGV[2] events of ARGV[3] bytes. They are so old that no repeated call looks for them.
_FILL_STREAM = """
local text = '"' .. string.rep("x", ARGV[3] - 5) .. '"\\t\\r\\t'
for number = ARGV[1], ARGV[1] + ARGV[2] - 1 do
  redis.call("XADD", KEYS[1], 1000 + number .. "-0", "type", "state:created", "scope", "s", "key", "k", "new", text,
    "request", "0123456789abcdef")
end
"""
_FILL_OTHER = "for number = ARGV[1], ARGV[1] + ARGV[2] - 1 do redis.call('SET', 'other:' .. number, number) end"

#: Sends a PING about every 0.4 ms, in turns to two servers. For each line of input, prints the latencies of each since the last
#: line, in milliseconds.
_PROBER = """
import gc, json, os, select, socket, sys, time
gc.disable()
try:
    os.nice(-10)  # the time in which the prober waits for a core must not be measured
except OSError:
    pass
connections = [socket.socket(socket.AF_UNIX) for _ in sys.argv[1:]]
for connection, path in zip(connections, sys.argv[1:]):
    connection.connect(path)
    connection.settimeout(60)
took = [[] for _ in connections]
while True:
    for connection, times in zip(connections, took):
        began = time.perf_counter()
        connection.sendall(b"PING\\r\\n")
        connection.recv(64)
        times.append((time.perf_counter() - began) * 1000)
        if select.select([sys.stdin], [], [], 0.0003)[0]:
            if not sys.stdin.readline():
                sys.exit()
            print(json.dumps(took), flush=True)
            for each in took:
                each.clear()
"""


class Prober:
    """A process that sends PINGs to a server and to an idle one. Leaving `with` kills it."""

    def __init__(self, server: RedisServer, idle: RedisServer) -> None:
        command = [sys.executable, "-I", "-c", _PROBER, str(server.socket), str(idle.socket)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def took(self) -> tuple[list[float], list[float]]:
        """Return the latencies of all PINGs since the last call, to the server and to the idle one, in milliseconds, sorted."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        server, idle = map(sorted, json.loads(self._process.stdout.readline()))
        return server, idle

    def __enter__(self) -> Self:
        self.took()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


class Site:
    """A server with a large scope, and the measurements that other clients make on it."""

    def __init__(self, server: RedisServer, raw: redis.Redis, prober: Prober) -> None:
        self.url = server.url
        self.raw = raw
        self._prober = prober

    async def watch(
        self,
        what: str,
        run: Callable[[], Awaitable[Any]],
        prepare: Callable[[], None] = lambda: None,
        *,
        pings: bool = FULL,
        attempts: int = ATTEMPTS,
    ) -> None:
        """Run `run`, print the latencies of other clients, and assert that they are short in one of the attempts.

        With `pings`, the p99.9 of the PINGs above that of the idle server is limited, too, and the slow log holds only the slow
        commands. Else it holds every command, also those inside of scripts, and if two attempts run a command equally often, the
        shorter duration of each of its runs counts. `prepare` runs before each attempt, and is not measured.
        """
        threshold = SLOW if pings else 0
        shortest: dict[tuple[str, int], list[float]] = {}
        for attempt in range(attempts):
            prepare()
            self.raw.config_set("slowlog-log-slower-than", threshold)
            self.raw.slowlog_reset()
            self._prober.took()
            await run()
            took, idle = self._prober.took()
            self.raw.config_set("slowlog-log-slower-than", -1)  # commands of `prepare` are not measured
            by_name = self._read_slow_log()
            for name, durations in by_name.items():
                place = (name, len(durations))
                if not pings and place in shortest:
                    # A busy machine delays other commands in each attempt. A command that blocks Redis is slow in all of them.
                    by_name[name] = list(map(min, durations, shortest[place]))
                shortest[place] = by_name[name]
            p50, p99, p999 = (took[int(len(took) * part)] for part in (0.5, 0.99, 0.999))
            usual = idle[int(len(idle) * 0.999)] if idle else 0.0
            longest, name = max(
                ((max(durations), name) for name, durations in by_name.items()), default=(threshold / 1000, "or less")
            )
            print(
                f"{what}: PING ms p50 {p50:.2f} p99 {p99:.2f} p99.9 {p999:.2f} (idle {usual:.2f}) max {took[-1]:.2f}; "
                f"longest of {sum(map(len, by_name.values()))} commands {longest:.2f} ms {name}"
            )
            if longest < LONGEST and (not pings or p999 <= LONGEST + usual):
                return
            assert attempt + 1 < attempts, f"{what}: Redis was blocked for over {LONGEST} ms in each of {attempts} attempts"

    def _read_slow_log(self) -> dict[str, list[float]]:
        """Return the durations of the logged commands by name, in order, in milliseconds."""
        found: Any = self.raw.slowlog_get(MOST_COMMANDS)
        assert len(found) < MOST_COMMANDS, "the slow log has dropped commands"
        by_name: dict[str, list[float]] = {}
        for entry in reversed(found):
            name = entry["command"].split()[0].decode()
            if name not in ("PING", "CONFIG", "SLOWLOG"):
                by_name.setdefault(name, []).append(entry["duration"] / 1000)
        return by_name

    def fill(self, scope: str, keys: int) -> None:
        """Write `keys` values of 200 bytes into a scope."""
        names = SPACE.state_keys(scope.encode(), b"any")
        self._fill(_FILL, [names.values, names.revisions, names.scopes], keys, 5000, scope)

    def copy(self, source: str, scope: str) -> None:
        """Replace a scope by a copy of another one."""
        names, sources = (SPACE.state_keys(each.encode(), b"any") for each in (scope, source))
        for key, of in ((names.values, sources.values), (names.revisions, sources.revisions)):
            self.raw.copy(of, key, replace=True)
        self.raw.sadd(names.scopes, scope)

    def fill_large(self, scope: str, keys: int, size: int) -> None:
        """Write `keys` values of `size` bytes into a scope."""
        names = SPACE.state_keys(scope.encode(), b"any")
        for number in range(keys):
            self.raw.hset(names.values, str(number), b'"%s"\t\r\t' % (b"x" * (size - 5)))
        self.raw.sadd(names.scopes, scope)

    def fill_stream(self, stream: bytes, entries: int, size: int) -> None:
        """Replace a stream by one with `entries` old events of `size` bytes."""
        self.raw.delete(stream)
        self._fill(_FILL_STREAM, [stream], entries, max(1, min(5000, 10_000_000 // size)), str(size))

    def fill_other_keys(self) -> None:
        """Write keys of another application."""
        self._fill(_FILL_OTHER, [], KEYS, 5000)

    def _fill(self, source: str, keys: list[bytes], count: int, page: int, *arguments: str) -> None:
        script: Any = self.raw.register_script(source)
        for first in range(0, count, page):
            script(keys, [first, min(page, count - first), *arguments])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with (
        RedisServer(
            tmp_path_factory.mktemp("redis"), "--slowlog-log-slower-than", "-1", "--slowlog-max-len", str(MOST_COMMANDS)
        ) as server,
        RedisServer(tmp_path_factory.mktemp("idle")) as idle,
        redis.Redis.from_url(server.url) as raw,
        Prober(server, idle) as prober,
    ):
        site = Site(server, raw, prober)
        site.fill("large", KEYS)
        yield site


@pytest.fixture
async def large(site: Site) -> Any:
    async with StateManager(site.url, namespace="blocks") as state:
        yield state


async def test_watch_detects_a_command_that_blocks_redis(site: Site) -> None:
    busy = "local count = 0 for number = 1, 2e7 do count = count + number end return count"
    with pytest.raises(AssertionError, match="Redis was blocked"):
        await site.watch("control", lambda: _return(site.raw.eval(busy, 0)), attempts=2)


async def _return(value: Any) -> Any:
    return value


async def test_list_of_a_large_scope_does_not_block_redis(site: Site, large: StateManager) -> None:
    async def run() -> None:
        assert len(await large.list("large")) == KEYS

    await site.watch(f"list of {KEYS}", run)


async def test_list_needs_little_more_memory_than_its_result(site: Site, large: StateManager) -> None:
    await large.list("nothing")
    gc.collect()
    tracemalloc.start()
    try:
        result = await large.list("large")
        gc.collect()
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(f"list of {len(result)}: result {held / 1e6:.1f} MB, peak {peak / held:.2f} times that")
    assert peak <= LIST_MEMORY * held


async def test_list_groups_sends_the_same_commands_with_many_other_keys(site: Site, large: StateManager) -> None:
    async def commands() -> dict[str, int]:
        site.raw.config_resetstat()
        assert await large.list_groups() == ["large"]
        return {
            name: stats["calls"]
            for name, stats in site.raw.info("commandstats").items()
            if "config" not in name and "ping" not in name
        }

    await large.list_groups()  # opens the connections
    without = await commands()
    site.fill_other_keys()
    with_others = await commands()
    site.raw.config_resetstat()
    assert {name: calls for name, calls in with_others.items() if "info" not in name and "eval" not in name} == {
        name: calls for name, calls in without.items() if "info" not in name and "eval" not in name
    }
    assert sum(with_others.values()) <= 5 * Layout().partitions  # a script of a few commands for each

    async def run() -> None:
        for _ in range(100):
            await large.list_groups()

    await site.watch(f"100 list_groups with {KEYS} other keys", run)


async def test_deletes_in_a_large_scope_do_not_block_redis(site: Site, large: StateManager) -> None:
    async def run() -> None:
        for number in range(500):
            await large.delete("deleted from", f"key{number:07}")

    await site.watch("500 deletes", run, lambda: site.copy("large", "deleted from"))


async def test_clear_of_a_large_scope_does_not_block_redis(site: Site, large: StateManager) -> None:
    async def run() -> None:
        await large.clear("cleared")

    # One client sends hundreds of deletions at once, and a PING waits for some of them: the commands are what may not be long.
    await site.watch(f"clear of {CLEARED}", run, lambda: site.fill("cleared", CLEARED), pings=False)
    names = SPACE.state_keys(b"cleared", b"any")
    assert site.raw.exists(names.values, names.revisions) == 0


async def test_trim_of_many_events_does_not_block_redis(site: Site, large: StateManager) -> None:
    await _watch_trim(site, "small events", entries=KEYS, size=200)


async def test_trim_of_large_events_does_not_block_redis(site: Site, large: StateManager) -> None:
    await _watch_trim(site, "large events", entries=5000 if FULL else 1000, size=100_000)


async def _watch_trim(site: Site, scope: str, *, entries: int, size: int) -> None:
    stream = SPACE.state_keys(scope.encode(), b"key").events
    state = StateManager(site.url, namespace="blocks", retention=Retention(entries=100))

    def prepare() -> None:
        site.fill_stream(stream, entries, size)
        site.raw.xgroup_create(stream, "step", "0")

    async def run() -> None:
        for _ in range(200):
            await state.set(scope, "key", "kept for the consumer group")
        assert site.raw.xlen(stream) > entries
        site.raw.xgroup_destroy(stream, "step")
        for number in range(100_000):
            await state.set(scope, "key", number)
            # Events that a repeated call may look for are kept. About one change in 64 trims the others.
            if number % 100 == 0 and site.raw.xrange(stream, "-", "+", 1)[0][0] > b"1700":  # type: ignore[index]
                break
        else:
            pytest.fail("the old events were not trimmed")

    async with state:
        await site.watch(f"trim of {entries} events of {size} bytes", run, prepare)
    site.raw.delete(stream)


async def test_list_and_clear_of_large_values_do_not_block_redis(site: Site, large: StateManager) -> None:
    async def run() -> None:
        assert len(await large.list("of large values")) == 400
        await large.clear("of large values")

    # The values are of 100 KB: a single change of a value of 1 MB already takes 5 ms.
    await site.watch("list and clear of 400 values of 100 KB", run, lambda: site.fill_large("of large values", 400, 100_000))
