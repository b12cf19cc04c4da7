"""The measured clients. Each is used as its documentation recommends for speed.

A contender imports its library when it connects, so that a child process loads only one of the libraries.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Self

import orjson

from benchmarks.calling import values

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks.calling.values import Value

SCOPE, LISTED, CONTENDED = "users", "listed", "contended"
_BATCH = 500  # values of one write when a hash is filled
_KEPT = 100  # events that the streams of rivals keep, about: fewer than ours keeps


class Contender:
    """A way to read and write JSON values in Redis. `connected` opens it. Different contenders use different keys."""

    name: ClassVar[str]
    package: ClassVar[str]  #: the distribution whose version is printed
    works: ClassVar[frozenset[str]] = frozenset({"read", "write"})  #: what is measured: `read`, `write`, `change`

    def __init__(self, client: Any) -> None:
        self.client = client

    @classmethod
    @asynccontextmanager
    async def connected(cls, url: str) -> AsyncIterator[Self]:
        """Connect to `unix://PATH` or `redis://HOST:PORT/0`. Raises ImportError when the library is not installed."""
        raise NotImplementedError(url)
        yield  # makes it a generator

    async def get(self, key: str) -> Value:
        """Read a value."""
        raise NotImplementedError

    async def set(self, key: str, value: Value) -> None:
        """Write a value."""
        raise NotImplementedError

    async def read(self, task: int, calls: int) -> None:
        """Make `calls` reads of the task's key, one after the other."""
        key = values.key(task)
        for _ in range(calls):
            await self.get(key)

    async def write(self, task: int, calls: int) -> None:
        """Make `calls` writes of the task's key, one after the other, each with a different value."""
        key, value = values.key(task), values.build(task)
        for value["n"] in range(1, calls + 1):
            await self.set(key, value)

    async def concurrently(self, work: str, tasks: int, calls: int) -> None:
        """Run `tasks` tasks that each make `calls` calls of one operation: `read`, `write` or `change`."""
        run = getattr(self, work)
        if tasks == 1:
            await run(0, calls)
        else:
            await asyncio.gather(*(run(task, calls) for task in range(tasks)))


class Stateful(Contender):
    """A contender that can also increment a contended member and list values: ours and redis-py."""

    async def list(self) -> list[Value]:
        """Read all values of the filled scope."""
        raise NotImplementedError

    async def fill(self, count: int) -> None:
        """Write `count` values for `list`."""
        raise NotImplementedError

    async def increment(self, until: float) -> bool:
        """Increment the contended value's counter. Return False if that did not succeed before the deadline."""
        raise NotImplementedError

    async def counter(self) -> int:
        """Return the contended value's counter, which starts as 0."""
        raise NotImplementedError


class Ours(Stateful):
    """`StateManager` with its defaults."""

    name, package = "ours", "motia-redis"
    works = frozenset({"read", "write", "change"})
    increment_n: ClassVar = [{"op": "increment", "path": "/n", "value": 1}]

    @classmethod
    @asynccontextmanager
    async def connected(cls, url: str) -> AsyncIterator[Self]:
        """Connect."""
        from motia_redis import StateManager  # noqa: PLC0415  # only in this child

        async with StateManager(url, namespace="bench") as state:
            yield cls(state)

    async def get(self, key: str) -> Value:
        """Read."""
        return await self.client.get(SCOPE, key)

    async def set(self, key: str, value: Value) -> None:
        """Write."""
        await self.client.set(SCOPE, key, value)

    async def change(self, task: int, calls: int) -> None:
        """Increment the counter of the task's key, `calls` times."""
        key = values.key(task)
        for _ in range(calls):
            await self.client.update(SCOPE, key, self.increment_n)

    async def list(self) -> list[Value]:
        """Read all."""
        return await self.client.list(LISTED)

    async def fill(self, count: int) -> None:
        """Write in concurrent calls."""
        for start in range(0, count, _BATCH):
            indices = range(start, min(start + _BATCH, count))
            await asyncio.gather(*(self.client.set(LISTED, values.key(index), values.build(index)) for index in indices))

    async def increment(self, until: float) -> bool:  # noqa: ARG002  # it cannot fail
        """Increment."""
        await self.client.update(CONTENDED, "value", self.increment_n)
        return True

    async def counter(self) -> int:
        """Read the counter."""
        return ((await self.client.get(CONTENDED, "value")) or {"n": 0})["n"]


class RedisPy(Stateful):
    """redis-py's asyncio client from `from_url`, with its default pool and hiredis, which it uses if installed."""

    name, package = "redis-py", "redis"

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self.hashes = {scope: f"plain:{self.name}:{scope}" for scope in (SCOPE, LISTED, CONTENDED)}
        self.users = self.hashes[SCOPE]

    @classmethod
    @asynccontextmanager
    async def connected(cls, url: str) -> AsyncIterator[Self]:
        """Connect."""
        import hiredis  # noqa: F401, PLC0415  # without hiredis, redis-py would be slower without a warning
        from redis import asyncio as redis  # noqa: PLC0415  # only in this child

        async with redis.Redis.from_url(url) as client:
            yield cls(client)

    async def get(self, key: str) -> Value:
        """Read."""
        return orjson.loads(await self.client.hget(self.users, key))

    async def set(self, key: str, value: Value) -> None:
        """Write."""
        await self.client.hset(self.users, key, orjson.dumps(value))

    async def list(self) -> list[Value]:
        """Read all."""
        return [orjson.loads(text) for text in await self.client.hvals(self.hashes[LISTED])]

    async def fill(self, count: int) -> None:
        """Write by commands of many members."""
        for start in range(0, count, _BATCH):
            indices = range(start, min(start + _BATCH, count))
            texts = {values.key(index): orjson.dumps(values.build(index)) for index in indices}
            await self.client.hset(self.hashes[LISTED], mapping=texts)

    async def increment(self, until: float) -> bool:
        """Increment as redis-py's documentation does it ("Pipelines", optimistic locking by WATCH)."""
        from redis.exceptions import WatchError  # noqa: PLC0415  # only in this child

        name = self.hashes[CONTENDED]
        async with self.client.pipeline(transaction=True) as pipeline:
            while time.perf_counter() < until:
                try:
                    await pipeline.watch(name)
                    text = await pipeline.hget(name, "value")
                    value = orjson.loads(text) if text else {"n": 0}
                    value["n"] += 1
                    pipeline.multi()
                    pipeline.hset(name, "value", orjson.dumps(value))
                    await pipeline.execute()
                except WatchError:
                    continue
                return True
        return False

    async def counter(self) -> int:
        """Read the counter."""
        text = await self.client.hget(self.hashes[CONTENDED], "value")
        return orjson.loads(text)["n"] if text else 0


class Pipelines(RedisPy):
    """redis-py with explicit pipelines of `tasks` commands, for callers that can wait for each other."""

    name = "redis-py pipelines"

    async def concurrently(self, work: str, tasks: int, calls: int) -> None:
        """Make `calls` pipelines with a command for each task's key in them."""
        keys, users = [values.key(task) for task in range(tasks)], [values.build(task) for task in range(tasks)]
        for number in range(1, calls + 1):
            pipeline = self.client.pipeline(transaction=False)
            for key, value in zip(keys, users, strict=True):
                if work == "read":
                    pipeline.hget(self.users, key)
                else:
                    value["n"] = number
                    pipeline.hset(self.users, key, orjson.dumps(value))
            replies = await pipeline.execute()
            if work == "read":
                for text in replies:
                    orjson.loads(text)


class Multi(RedisPy):
    """redis-py with the writes of our `set` in `MULTI` and `EXEC`: the event, the revision, the scope and the value.

    What our script reads is left out: without a script the old value cannot be part of the event, and the revision is the
    client's own. So it does less, and knows of no second attempt.
    """

    name = "redis-py MULTI"
    works = frozenset({"write"})
    _revision = 0

    async def set(self, key: str, value: Value) -> None:
        """Write."""
        text, self._revision = orjson.dumps(value), self._revision + 1
        event = {"type": "state:updated", "scope": SCOPE, "key": key, "request": f"{self._revision:016x}", "new": text}
        async with self.client.pipeline(transaction=True) as pipeline:
            pipeline.xadd(f"{self.users}:events", event, maxlen=_KEPT)
            pipeline.hset(f"{self.users}:revisions", key, self._revision)
            pipeline.sadd(f"{self.users}:scopes", SCOPE)
            pipeline.hset(self.users, key, text)
            await pipeline.execute()


class Script(RedisPy):
    """redis-py with a script written by hand: it reads and writes what our `set` does, but may apply a request twice."""

    name = "redis-py script"
    works = frozenset({"write"})
    source = """
        local old = redis.call('HGET', KEYS[1], ARGV[1])
        local kind = old and 'state:updated' or 'state:created'
        local revision = redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'type', kind, 'scope', ARGV[2], 'key', ARGV[1],
            'new', ARGV[3], 'old', old or '')
        redis.call('HSET', KEYS[3], ARGV[1], revision)
        if not old then redis.call('SADD', KEYS[4], ARGV[2]) end
        redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
        return revision
    """

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self._script = client.register_script(self.source)
        self._keys = [self.users, *(f"{self.users}:{part}" for part in ("events", "revisions", "scopes"))]

    async def set(self, key: str, value: Value) -> None:
        """Write."""
        await self._script(keys=self._keys, args=[key, SCOPE, orjson.dumps(value), _KEPT])


class Watch(RedisPy):
    """redis-py's `WATCH`, `MULTI` and `EXEC` around a change in Python, each task at a key that no other one watches."""

    name = "redis-py WATCH"
    works = frozenset({"change"})

    async def get(self, key: str) -> Value:
        """Read."""
        return orjson.loads(await self.client.get(f"{self.users}:{key}"))

    async def set(self, key: str, value: Value) -> None:
        """Write."""
        await self.client.set(f"{self.users}:{key}", orjson.dumps(value))

    async def change(self, task: int, calls: int) -> None:
        """Increment the counter of the task's key, `calls` times. No other client changes it, so no attempt fails."""
        name = f"{self.users}:{values.key(task)}"
        async with self.client.pipeline(transaction=True) as pipeline:
            for _ in range(calls):
                await pipeline.watch(name)
                value = orjson.loads(await pipeline.get(name))
                value["n"] += 1
                pipeline.multi()
                pipeline.set(name, orjson.dumps(value))
                await pipeline.execute()


class Coredis(Contender):
    """coredis, whose pool multiplexes commands over few connections by itself; its own parser is compiled.

    `COREDIS_OPTIMIZED`, which coredis documents, turns off validation. coredis reads it at import.
    """

    name = package = "coredis"
    hash = "plain:coredis"

    @classmethod
    @asynccontextmanager
    async def connected(cls, url: str) -> AsyncIterator[Self]:
        """Connect."""
        os.environ["COREDIS_OPTIMIZED"] = "true"
        import coredis  # noqa: PLC0415  # only in this child, after COREDIS_OPTIMIZED is set

        async with coredis.Redis.from_url(url, decode_responses=False) as client:
            yield cls(client)

    async def get(self, key: str) -> Value:
        """Read."""
        return orjson.loads(await self.client.hget(self.hash, key))

    async def set(self, key: str, value: Value) -> None:
        """Write."""
        await self.client.hset(self.hash, {key: orjson.dumps(value)})


class Glide(Contender):
    """valkey-glide: one client, which multiplexes all tasks over one connection, as its documentation recommends."""

    name = package = "valkey-glide"
    hash = "plain:valkey-glide"

    @classmethod
    @asynccontextmanager
    async def connected(cls, url: str) -> AsyncIterator[Self]:
        """Connect."""
        import glide  # noqa: PLC0415  # only in this child

        kind, _, place = url.partition("://")
        if kind == "unix":
            address = glide.NodeAddress(unix_socket_path=place)
        else:
            host, _, port = place.partition("/")[0].rpartition(":")
            address = glide.NodeAddress(host, int(port))
        # With its default of 250 ms, calls would fail on a busy machine.
        client = await glide.GlideClient.create(glide.GlideClientConfiguration([address], request_timeout=10_000))
        try:
            yield cls(client)
        finally:
            await client.close()

    async def get(self, key: str) -> Value:
        """Read."""
        return orjson.loads(await self.client.hget(self.hash, key))

    async def set(self, key: str, value: Value) -> None:
        """Write."""
        await self.client.hset(self.hash, {key: orjson.dumps(value)})


ALL: dict[str, type[Contender]] = {kind.name: kind for kind in (Ours, RedisPy, Pipelines, Coredis, Glide, Multi, Script, Watch)}
