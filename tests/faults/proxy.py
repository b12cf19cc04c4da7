"""A TCP proxy in front of Redis that injects network faults: it drops, truncates, delays and holds back requests and replies."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import hiredis

if TYPE_CHECKING:
    from collections.abc import Container, Coroutine, Sequence
    from typing import Self

#: before: the proxy drops the request and closes the connection.
#: after:  Redis runs the request; the proxy drops the reply and closes the connection.
#: middle: the proxy sends half of the reply and closes the connection.
#: late:   the proxy sends the reply after `delay`, when the client has given up.
#: stall:  the proxy sends the request after `delay`, when the client has given up.
FAULTS = ("before", "after", "middle", "late", "stall")
CHANGES = frozenset({b"FCALL", b"EVALSHA", b"EVAL", b"INCRBY"})


class Proxy:
    """Serves on a port of its own, in front of the Redis on another one, inside `async with`. A subclass handles connections."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self._to = port
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something until it ends, or the proxy does."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class FaultProxy(Proxy):
    """Forwards requests to Redis and injects a fault into a share of the changes. Serves inside `async with`.

    `rate` is the mean number of faults per change. The gaps between faults are random and at most `2 / rate` changes long. The
    faults come in random order, and each one of `faults` comes once before any comes again. So a test that sends enough changes
    meets every fault, on a slow machine too. With `scripts`, only calls of these scripts count as changes: names of
    functions, and hashes.
    """

    def __init__(
        self,
        port: int,
        *,
        rate: float,
        seed: int,
        delay: float,
        faults: Sequence[str] = FAULTS,
        scripts: Container[bytes] | None = None,
    ) -> None:
        super().__init__(port)
        self.injected: Counter[str] = Counter()
        self.changes = 0  #: that have arrived at the proxy
        self._longest_gap = round(2 / rate) - 1
        self._delay = delay
        self._faults = faults
        self._scripts = scripts
        self._random = random.Random(seed)
        self._next_faults: list[str] = []
        self._gap = self._draw_gap()

    async def drain(self) -> None:
        """Wait until Redis has answered every request that the proxy still holds. The clients must have disconnected."""
        async with asyncio.timeout(self._delay + 60):
            while self._tasks:
                await asyncio.wait(self._tasks)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._start(self._connection(reader, writer))

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            redis_reader, redis_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.close()
            return
        parser = hiredis.Reader()
        pending = b""
        commands = []
        try:
            while data := await reader.read(1 << 20):
                pending += data
                parser.feed(data)
                while (command := parser.gets()) is not False:
                    commands.append(command)
                if parser.has_data():
                    continue  # the request is incomplete
                request, count = pending, len(commands)
                fault = self._choose(commands)
                pending, commands = b"", []
                if fault == "before":
                    return
                if fault == "stall":
                    await asyncio.sleep(self._delay)
                redis_writer.write(request)
                reply = await _replies(redis_reader, count)
                if fault == "after":
                    return
                if fault == "late":
                    await asyncio.sleep(self._delay)
                writer.write(reply[: len(reply) // 2] if fault == "middle" else reply)
                await writer.drain()
                if fault == "middle":
                    return
        except OSError:
            pass  # the client or Redis closed the connection
        finally:
            redis_writer.close()
            writer.close()

    def _choose(self, commands: list[list[bytes]]) -> str | None:
        """Return the fault for a request of these commands: None for most of them."""
        changes = sum(map(self._is_change, commands))
        self.changes += changes
        self._gap -= changes
        if self._gap > 0 or not changes:
            return None
        self._gap = self._draw_gap()
        if not self._next_faults:
            self._next_faults = self._random.sample(self._faults, len(self._faults))
        fault = self._next_faults.pop()
        self.injected[fault] += 1
        return fault

    def _is_change(self, command: list[bytes]) -> bool:
        return command[0].upper() in CHANGES and (self._scripts is None or command[1] in self._scripts)

    def _draw_gap(self) -> int:
        return self._random.randint(1, self._longest_gap)


async def _replies(reader: asyncio.StreamReader, count: int) -> bytes:
    """Read `count` complete replies."""
    parser, found, replies = hiredis.Reader(), b"", 0
    while replies < count:
        data = await reader.read(1 << 20)
        if not data:
            raise ConnectionResetError("Redis closed the connection")
        found += data
        parser.feed(data)
        while parser.gets() is not False:
            replies += 1
    return found


class StallProxy(Proxy):
    """Passes bytes on; after `arm` it holds all requests back, from the first one that contains `trigger` on, until `release`.

    Nothing is lost: what was held back arrives late, as after a partition of the network, also when the client has given up.
    """

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.held = b""  #: what clients sent and the proxy has not passed on
        self._trigger: bytes | None = None
        self._open = asyncio.Event()
        self._open.set()

    @property
    def is_stalled(self) -> bool:
        return not self._open.is_set()

    def arm(self, trigger: bytes) -> None:
        """Hold back all requests when the next request comes that contains `trigger`."""
        self._trigger = trigger

    def release(self) -> None:
        """Deliver what was held back, and pass bytes on again."""
        self.held = b""
        self._open.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        redis_reader, redis_writer = await asyncio.open_connection("127.0.0.1", self._to)
        for source, target, is_request in ((reader, redis_writer, True), (redis_reader, writer, False)):
            queue: asyncio.Queue[bytes] = asyncio.Queue()
            for pumping in (self._read(source, queue, is_request=is_request), self._write(queue, target, is_request=is_request)):
                self._start(pumping)

    async def _read(self, source: asyncio.StreamReader, queue: asyncio.Queue[bytes], *, is_request: bool) -> None:
        data = b"begin"
        while data:
            try:
                data = await source.read(1 << 20)
            except OSError:
                data = b""  # as if it had been closed
            if is_request and self._trigger and self._trigger in data:
                self._trigger = None
                self._open.clear()
            if is_request and self.is_stalled:
                self.held += data
            queue.put_nowait(data)

    async def _write(self, queue: asyncio.Queue[bytes], target: asyncio.StreamWriter, *, is_request: bool) -> None:
        try:
            while data := await queue.get():
                if is_request:
                    await self._open.wait()
                target.write(data)
                await target.drain()
        except OSError:
            pass  # the other side has closed the connection
        finally:
            target.close()


class CutProxy(Proxy):
    """Forwards bytes in both directions, until `cut` closes all connections."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Close all connections at once; what is on its way is lost."""
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other = await asyncio.open_connection("127.0.0.1", self._to)
        for source, target in ((reader, other), (other_reader, writer)):
            self._writers.add(target)
            self._start(self._forward(source, target))

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
