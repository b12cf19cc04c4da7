"""Commands of single calls: repetition, atomicity, trimming, and bytes that other clients wrote."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import Retention, StateManager
from motia_redis._scripts import loader
from motia_redis._store.keyspace import Keyspace, Layout
from motia_redis.errors import CorruptValue, StateUnavailable
from tests.support.scripts import CALLS

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support.servers import RedisServer

INCREMENT = [{"op": "increment", "path": "/n", "value": 1}]


class CuttingProxy:
    """Forward requests to Redis. Close the connection instead of replying to a request that contains `cut_at`."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.cut_at = b"\x00never"
        self.cuts = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        redis_reader, redis_writer = await asyncio.open_connection("127.0.0.1", self._to)
        is_cut = False

        async def forward_replies() -> None:
            while reply := await redis_reader.read(65536):
                if is_cut:
                    self.cuts += 1
                    break
                writer.write(reply)
            writer.close()

        replies = asyncio.create_task(forward_replies())
        try:
            while request := await reader.read(65536):
                is_cut = is_cut or self.cut_at in request
                redis_writer.write(request)
        finally:
            redis_writer.close()
            await replies


async def test_mutation_without_a_deadline_is_not_repeated_after_a_lost_reply(
    start_server: Callable[..., tuple[RedisServer, int]],
) -> None:
    _server, port = start_server()
    proxy = CuttingProxy(port)
    async with await asyncio.start_server(proxy.handle, "127.0.0.1", 0) as listening:
        address = listening.sockets[0].getsockname()[1]
        async with StateManager(f"redis://127.0.0.1:{address}", deadline=0) as state:
            for number in range(1, 4):
                await state.update("counters", "visits", INCREMENT)
                proxy.cut_at = b"counters"
                with pytest.raises(StateUnavailable, match="may have been applied") as error:
                    await state.update("counters", "visits", INCREMENT)
                assert error.value.maybe_applied
                proxy.cut_at = b"\x00never"
                assert proxy.cuts == number
                assert await state.get("counters", "visits") == {"n": 2 * number}


async def test_entry_reads_value_and_revision_in_one_script(state: StateManager, raw: redis.Redis) -> None:
    await state.set("users", "ann", 1)
    await state.entry("users", "ann")
    with raw.monitor() as monitor:
        await state.entry("users", "ann")
        raw.echo("end")
        seen = []
        while (command := monitor.next_command())["command"] != "ECHO end":
            seen.append(command["command"].split()[0])
    called, *inside = [name for name in seen if name not in ("HELLO", "CLIENT")]
    assert called in CALLS
    assert inside == ["HGET", "HGET"]


@pytest.mark.usefixtures("every_change_looks")
async def test_topic_without_subscriber_is_trimmed(server: RedisServer, raw: redis.Redis, namespace: str) -> None:
    async with StateManager(server.url, namespace=namespace, retention=Retention(topic_entries=0), deadline=0) as state:
        for number in range(2000):
            await state.enqueue("mail", number, key="ann")
    names = Keyspace(namespace, Layout())
    assert 100 <= raw.xlen(names.topic(b"mail", names.lane(b"ann"))) <= 200


async def test_calls_of_a_flushed_script_run_once_each(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    router = await state.open_router()
    appending = loader.Script("return redis.call('RPUSH', KEYS[1], ARGV[1])")
    raw.script_flush()
    key = f"{namespace}:list".encode()
    calls: Any = [([key], [b"%d" % number]) for number in range(5)]
    assert await appending.call_many(router, calls) == [1, 2, 3, 4, 5]
    assert raw.lrange(key, 0, -1) == [b"0", b"1", b"2", b"3", b"4"]
    await router.aclose()


# -- bytes of other clients ------------------------------------------------------------------------------------------------


async def test_keys_that_are_not_utf8_are_listed_and_cleared(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    names = Keyspace(namespace, Layout())
    await state.set("users", "ann", 1)
    raw.hset(names.values(b"users"), b"\xff\xfe", "2")  # type: ignore[arg-type]
    assert sorted(await state.list("users")) == [1, 2]
    raw.hset(names.values(b"users"), b"\xff\xfe", "{broken")  # type: ignore[arg-type]
    with pytest.raises(CorruptValue, match="scope 'users' key '\ufffd\ufffd': the stored text is not JSON"):
        await state.list("users")
    await state.clear("users")
    assert await state.list("users") == []


async def test_scope_that_is_not_utf8_is_named_in_the_error(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    await state.set("users", "ann", 1)
    raw.sadd(Keyspace(namespace, Layout()).scopes(3), b"caf\xe9")
    with pytest.raises(CorruptValue, match=re.escape(r"b'caf\xe9' is not UTF-8")):
        await state.list_groups()


async def test_list_creates_no_subject_per_key(state: StateManager, monkeypatch: pytest.MonkeyPatch) -> None:
    await state.set("users", "ann", 1)
    monkeypatch.setattr("motia_redis._store.reading.Subject", None)
    assert await state.list("users") == [1]
