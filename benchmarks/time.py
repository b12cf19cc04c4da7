"""Measure what happens at a time: how many delayed messages and values fall due in a second, how late, what waiting and ttl cost.

One process sends or deletes what is due. Messages and values are written in the form of docs/format.md, because clients take
longer to write them than they need to fall due. PING is measured by another client meanwhile.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.common import machine, program, rounds
from benchmarks.common.children import Child
from benchmarks.common.failures import BenchmarkFailed
from benchmarks.common.server import Server, cpu_seconds, find_server
from benchmarks.common.tables import figure, markdown, quartiles
from benchmarks.updating import documents
from benchmarks.updating.contenders import OurSet, TtlSet
from motia_redis._store import codec, expiry
from motia_redis._store.keyspace import Keyspace, Layout
from motia_redis._store.sweeping import due_keys

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

EXAMPLES = """examples:
  python -m benchmarks.time --quick
  python -m benchmarks.time
"""
_BYTES = 100  # of the data of a message, and of a value
_FAR = 86_400.0  # seconds
_LOAD = 12.0  # seconds before the first is due, for 200,000 of them
_IDLE = 1.5  # seconds of PING before anything is due
_PIPELINE = 2000
KEYSPACE = Keyspace("bench", Layout())
SIZES = (200, 1000)  # bytes of values that are set without and with ttl
ROUNDS = 9


@dataclass(frozen=True)
class Kind:
    """What falls due: messages or values."""

    name: str
    write: Callable[[Server, Iterator[float]], None]  #: its arguments are the times
    waits: Callable[[Server], bool]  #: whether some of them still wait
    happened: Callable[[Server], Iterator[tuple[int, int]]]  #: when each happened and was due, in Unix milliseconds


@dataclass(frozen=True)
class Setting:
    """Things that fall due at an even rate, or all at once."""

    rate: int  #: a second; 0 = all at the same time
    count: int

    @property
    def name(self) -> str:
        """Describe the setting."""
        return f"{self.rate:,} a second" if self.rate else f"{self.count:,} at the same time"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = _options(arguments)
    binary = options.server or find_server()
    factor = options.divide or (10 if options.quick else 1)
    rates = [Setting(1000, 4000), Setting(50_000, 100_000), Setting(0, 100_000)]
    result: dict[str, Any] = {"machine": machine.describe(), "settings": {"data": f"{_BYTES} bytes"}, "due": [], "far": []}
    for kind in (MESSAGES, VALUES):
        for setting in rates:
            with Server(binary) as server:
                result["settings"]["redis"] = server.version
                program.progress(f"{kind.name}: {setting.name}")
                result["due"].append(measure_rate(server, kind, Setting(setting.rate, setting.count // factor)))
        for count in (0, 1_000_000 // factor):
            with Server(binary) as server:
                program.progress(f"{count:,} {kind.name} that are far")
                result["far"].append(measure_far(server, kind, count, seconds=5.0 / factor))
    result["ttl"] = [measure_ttl(binary, size, calls=1500 // factor) for size in SIZES]
    print(text(result))
    if options.publish:
        program.publish(program.Tables(text), "time", result, result["settings"]["redis"], options)


def measure_rate(server: Server, kind: Kind, setting: Setting) -> dict[str, Any]:
    """Let things fall due, and return how late they happened."""
    first = time.time() + max(1.5, _LOAD * setting.count / 200_000)
    times = (first + (number / setting.rate if setting.rate else 0) for number in range(setting.count))
    kind.write(server, times)
    if time.time() > first:
        raise BenchmarkFailed(f"{setting.name}: writing them took too long")
    with Pings(server) as idle:  # nothing is due yet: what the machine itself does to a PING
        idle.start()
        time.sleep(max(0.0, min(_IDLE, first - time.time() - 1.0)))
        idle_ping = idle.stop()
    with sweeping(server) as child, Pings(server) as pings:
        time.sleep(max(0.0, first - time.time()))
        server.client.config_resetstat()
        pings.start()
        before = cpu_seconds(server.client), float(child.ask("cpu"))
        while kind.waits(server):
            time.sleep(0.05)
        ping = pings.stop()
        longest = call_percentile(server)
        after = cpu_seconds(server.client), float(child.ask("cpu"))
    sent = sorted(kind.happened(server))
    if len(sent) != setting.count:
        raise BenchmarkFailed(f"{kind.name}, {setting.name}: {len(sent)} of {setting.count} happened")
    late = sorted(at - due for at, due in sent)
    return {
        "kind": kind.name,
        "setting": setting.name,
        "count": len(sent),
        "rate": len(sent) / max(0.001, sent[-1][0] / 1000 - first),
        "late": {"p50": percentile(late, 50), "p99": percentile(late, 99), "max": late[-1]},
        "ping": {"p50": percentile(ping, 50), "p99.9": percentile(ping, 99.9), "max": ping[-1]},
        "idle ping": {"p99.9": percentile(idle_ping, 99.9), "max": idle_ping[-1]},
        "call p99.9": longest,
        "server µs": (after[0] - before[0]) * 1e6 / len(sent),
        "client µs": (after[1] - before[1]) * 1e6 / len(sent),
    }


def measure_far(server: Server, kind: Kind, count: int, *, seconds: float) -> dict[str, Any]:
    """Let things wait, and return the CPU time that the server and the sweeping process need meanwhile."""
    kind.write(server, (time.time() + _FAR + number / 1000 for number in range(count)))
    memory = int(server.client.info("memory")["used_memory"])
    with sweeping(server) as child:
        time.sleep(0.5)  # its start is no waiting
        before = cpu_seconds(server.client), float(child.ask("cpu"))
        time.sleep(seconds)
        after = cpu_seconds(server.client), float(child.ask("cpu"))
    return {
        "kind": kind.name,
        "count": count,
        "server": (after[0] - before[0]) / seconds,
        "process": (after[1] - before[1]) / seconds,
        "bytes": memory / count if count else 0.0,
    }


def measure_ttl(binary: str, size: int, *, calls: int) -> dict[str, Any]:
    """Return the server time of a `set` without and with a time to live, and the difference in each round."""
    program.progress(f"set of {size:,} bytes, without and with ttl")
    text = codec.encode(documents.flat(size, "middle").value, subject="benchmark", max_bytes=size * 2)
    with ExitStack() as stack:
        plain, timed = (kind(stack.enter_context(Server(binary))) for kind in (OurSet, TtlSet))
        for contender in (plain, timed):
            contender.prepare(text, {"op": "remove", "path": "/nothing"})
            contender.never_trim()
            contender.run(calls)
        figures = rounds.alternate({"plain": lambda: plain.measure(calls), "ttl": lambda: timed.measure(calls)}, ROUNDS)
    more = [with_ttl - without for with_ttl, without in zip(figures["ttl"], figures["plain"], strict=True)]
    return {"bytes": len(text), "more": rounds.Spread.of(more).as_dict()} | {
        name: rounds.Spread.of(spent).as_dict() for name, spent in figures.items()
    }


def write_messages(server: Server, times: Iterator[float]) -> None:
    """Write delayed messages of 20 topics, as lua/delay_message.lua does."""
    data = b'"' + b"x" * (_BYTES - 2) + b'"'
    pipeline = server.client.pipeline(transaction=False)
    for number, at in enumerate(times):
        topic = b"topic%d" % (number % 20)
        keys = due_keys(KEYSPACE, KEYSPACE.partition(topic))
        name = b"%d-%016x" % (KEYSPACE.partition(topic), number)
        stream = b"topic:%d:%b" % (number % 8, topic)
        due = b"%d" % (at * 1000)
        pipeline.zadd(keys.due, {b"message:" + name: due})
        pipeline.hset(keys.delayed, name, b"%b:%d:0:0\n%b%b" % (due, len(stream), stream, data))
        if number % _PIPELINE == _PIPELINE - 1:
            pipeline.execute()
    pipeline.execute()


def write_values(server: Server, times: Iterator[float]) -> None:
    """Write values of 20 scopes that expire, as lua/mutate.lua does."""
    data = b'"' + b"x" * (_BYTES - 2) + b'"'
    pipeline = server.client.pipeline(transaction=False)
    for number, at in enumerate(times):
        scope, key, due = b"scope%d" % (number % 20), b"key%d" % number, int(at * 1000)
        names = KEYSPACE.state_keys(scope, key)
        lane = names.events.rpartition(b":")[2]
        digits = bytes(b" \t\n\r"[due >> shift & 3] for shift in range(46, -1, -2))
        pipeline.hset(names.values, key, data + digits + codec.CANONICAL_MARK)
        pipeline.hset(names.revisions, key, b"1-1")
        pipeline.zadd(KEYSPACE.due(KEYSPACE.partition(scope)), {b"expiry:%b:%d:%b%b" % (lane, len(scope), scope, key): due})
        if number < 20:
            pipeline.sadd(names.scopes, scope)
        if number % _PIPELINE == _PIPELINE - 1:
            pipeline.execute()
    pipeline.execute()


def messages_wait(server: Server) -> bool:
    """Return whether a message has not been sent."""
    return bool(server.client.exists(*(KEYSPACE.delayed(partition) for partition in range(KEYSPACE.layout.partitions))))


def values_wait(server: Server) -> bool:
    """Return whether a value has not expired."""
    return bool(server.client.exists(*(KEYSPACE.values(b"scope%d" % number) for number in range(20))))


def sent_messages(server: Server) -> Iterator[tuple[int, int]]:
    """Yield when each message was sent and due."""
    for entry, fields in entries_of(server, "topic"):
        yield int(entry.partition(b"-")[0]), int(fields[b"due"])


def expired_values(server: Server) -> Iterator[tuple[int, int]]:
    """Yield when each value was deleted and due."""
    for entry, fields in entries_of(server, "events"):
        yield int(entry.partition(b"-")[0]), round((expiry.expires_at(fields[b"old"]) or 0) * 1000)


def entries_of(server: Server, kind: str) -> Iterator[tuple[bytes, dict[bytes, bytes]]]:
    """Yield the id and the fields of each entry of the namespace's streams of a kind."""
    for stream in server.client.scan_iter(f"{{bench:*}}:{kind}:*"):
        for entry, fields in raw_entries(server, stream):
            yield entry, dict(zip(fields[::2], fields[1::2], strict=True))


def raw_entries(server: Server, stream: bytes) -> Iterator[tuple[bytes, list[bytes]]]:
    """Yield the entries of a stream as Redis sends them, in pages."""
    start = b"-"
    while page := server.client.execute_command("XRANGE", stream, start, "+", "COUNT", 5000, NEVER_DECODE=True):
        for entry, fields in page:
            yield entry, fields if isinstance(fields, list) else [part for pair in fields.items() for part in pair]
        start = b"(" + page[-1][0]


def sweeping(server: Server) -> Child:
    """Start the process that sends what is due."""
    child = Child("sweep", [sys.executable, "-m", "benchmarks.timing.child", server.url, "bench"])
    child.wait()
    return child


def call_percentile(server: Server) -> float | None:
    """Return the milliseconds that 99.9 of 100 calls that let things happen took at most; None if the server does not know."""
    stats = server.client.info("latencystats")
    found = [stats[name] for name in ("latency_percentiles_usec_fcall", "latency_percentiles_usec_evalsha") if name in stats]
    return max(float(each["p99.9"]) for each in found) / 1000 if found else None


class Pings:
    """A client that sends PING every millisecond or two from a thread."""

    def __init__(self, server: Server) -> None:
        self._client: Any = type(server.client)(unix_socket_path=server.socket)
        self._stop = threading.Event()
        self._milliseconds: list[float] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Pings:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._client.close()

    def start(self) -> None:
        """Begin to measure."""
        self._thread.start()

    def stop(self) -> list[float]:
        """Return the milliseconds of all replies, sorted."""
        self._stop.set()
        self._thread.join()
        return sorted(self._milliseconds)

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.perf_counter()
            self._client.ping()
            self._milliseconds.append((time.perf_counter() - began) * 1000)
            time.sleep(0.001)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile of sorted values."""
    return float(values[min(len(values) - 1, int(len(values) * percent / 100))])


def text(result: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    head = ["fall due", "number", "happen a second", "late p50, ms", "late p99, ms", "late max, ms"]
    head += ["PING p50, ms", "PING p99.9, ms", "PING max, ms", "idle PING p99.9, ms", "idle PING max, ms", "call p99.9, ms"]
    head += ["server CPU, µs each", "process CPU, µs each"]
    rows = [
        [
            f"{row['kind']}: {row['setting']}",
            f"{row['count']:,}",
            *map(figure, (row["rate"], *row["late"].values(), *row["ping"].values(), *row["idle ping"].values())),
            "-" if row["call p99.9"] is None else figure(row["call p99.9"]),
            *map(figure, (row["server µs"], row["client µs"])),
        ]
        for row in result["due"]
    ]
    far = [
        [f"{row['count']:,} {row['kind']}", f"{row['server'] * 100:.2f} %", f"{row['process'] * 100:.2f} %", figure(row["bytes"])]
        for row in result["far"]
    ]
    far_head = ["due in a day", "server CPU", "CPU of the sweeping process", "bytes of memory each"]
    ttl_head = ["set of an old value, bytes", "without ttl, µs", "with ttl, µs", "more, µs (quartiles)"]
    ttl = [
        [
            f"{row['bytes']:,}",
            figure(row["plain"]["median"]),
            figure(row["ttl"]["median"]),
            f"{figure(row['more']['median'])} ({quartiles(row['more'])})",
        ]
        for row in result["ttl"]
    ]
    return "\n\n".join([machine.conditions(result), markdown(head, rows), markdown(far_head, far), markdown(ttl_head, ttl)])


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = program.new_parser("time", __doc__, EXAMPLES, rounds=None, quick="a tenth of the messages and values")
    parser.add_argument("--divide", type=int, metavar="N", help="measure with one of N messages and values; print only")
    return program.read_options(parser, arguments)


MESSAGES = Kind("messages", write_messages, messages_wait, sent_messages)
VALUES = Kind("values", write_values, values_wait, expired_values)

if __name__ == "__main__":
    sys.exit(program.run(main))
