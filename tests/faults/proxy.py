"""A network that fails: a TCP proxy before Redis that cuts, tears, delays and holds back what passes."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING

import hiredis

if TYPE_CHECKING:
    from typing import Self

#: before: the request never arrives.        after: it was run, and the reply is lost.
#: middle: half of the reply arrives.        late:  the reply comes when nobody waits any more.
#: stall:  the request arrives when its sender has given up.
FAULTS = ("before", "after", "middle", "late", "stall")
CHANGES = frozenset({b"EVALSHA", b"EVAL", b"INCRBY"})


class FaultProxy:
    """Passes requests on to a Redis and harms them at a `rate` (0 to 1) per change that they carry. Serves on `async with`."""

    def __init__(self, port: int, *, rate: float, seed: int, delay: float) -> None:
        self.rate = rate
        self.delay = delay
        self.injected: Counter[str] = Counter()
        self.port = 0
        self._to = port
        self._random = random.Random(seed)
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
        task = asyncio.create_task(self._connection(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
                    continue  # the rest of a request is on its way
                request, count = pending, len(commands)
                fault = self._choose(commands)
                pending, commands = b"", []
                if fault == "before":
                    return
                if fault == "stall":
                    await asyncio.sleep(self.delay)
                redis_writer.write(request)
                reply = await _replies(redis_reader, count)
                if fault == "after":
                    return
                if fault == "late":
                    await asyncio.sleep(self.delay)
                writer.write(reply[: len(reply) // 2] if fault == "middle" else reply)
                await writer.drain()
                if fault == "middle":
                    return
        except OSError:
            pass  # either side went away
        finally:
            redis_writer.close()
            writer.close()

    def _choose(self, commands: list[list[bytes]]) -> str | None:
        changes = sum(command[0].upper() in CHANGES for command in commands)
        if not any(self._random.random() < self.rate for _ in range(changes)):
            return None
        fault = self._random.choice(FAULTS)
        self.injected[fault] += 1
        return fault


async def _replies(reader: asyncio.StreamReader, count: int) -> bytes:
    """Read that many replies whole."""
    parser, found, replies = hiredis.Reader(), b"", 0
    while replies < count:
        data = await reader.read(1 << 20)
        if not data:
            raise ConnectionResetError("Redis went away")
        found += data
        parser.feed(data)
        while parser.gets() is not False:
            replies += 1
    return found
