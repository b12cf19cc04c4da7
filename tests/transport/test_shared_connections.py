"""Managers share few connections among all their calls (links.py through nodes.py), on a real Redis, over TLS, and on a fake."""

from __future__ import annotations

import asyncio
import gc
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fakeredis
import pytest
from redis.asyncio import Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from motia_redis import StateManager
from motia_redis._transport import endpoint, failures
from motia_redis._transport.multiplexing import LARGE, ConnectionGroup, open_connection
from tests.support.certificates import Certificate, create_certificate
from tests.support.fake_redis import BULK, PATIENCE, FakeRedis, call, connections, echo, reaching, starts_big, text
from tests.support.loops import all_over, both_loops
from tests.support.waiting import seen, soon, wait_until

if TYPE_CHECKING:
    import redis

    from tests.support.servers import RedisServer

TASKS = 64
INCREMENT = [{"op": "increment", "path": "/n", "value": 1}]


def named(server: RedisServer, name: str) -> str:
    return f"{server.url}?client_name={name}"


def connected(raw: redis.Redis, name: str) -> int:
    clients: Any = raw.client_list()
    return sum(client["name"] == name for client in clients)


@both_loops
def test_many_tasks_share_few_connections_and_few_packets(
    loop: str, server: RedisServer, namespace: str, raw: redis.Redis
) -> None:
    async def work(state: StateManager, number: int) -> None:
        for turn in range(20):
            await state.set("users", f"{number}", turn)
            assert await state.get("users", f"{number}") == turn

    async def main() -> None:
        async with StateManager(named(server, namespace), namespace=namespace) as state:
            before: Any = raw.info("stats")
            await asyncio.gather(*(work(state, number) for number in range(TASKS)))
            after: Any = raw.info("stats")
            assert 1 <= connected(raw, namespace) <= 4
            calls = after["total_commands_processed"] - before["total_commands_processed"]
            assert calls >= TASKS * 20 * 2
            assert after["total_reads_processed"] - before["total_reads_processed"] < calls / 5
        wait_until(lambda: not connected(raw, namespace), "a closed manager leaves no connection")
        gc.collect()

    all_over(loop, main())


@both_loops
def test_changes_are_applied_once_while_connections_are_cut(
    loop: str, server: RedisServer, namespace: str, raw: redis.Redis
) -> None:
    kills = 0
    successes = 0

    async def work(state: StateManager) -> None:
        nonlocal successes
        while kills < 8:
            await state.update("counters", "visits", INCREMENT)
            successes += 1

    async def main() -> None:
        nonlocal kills
        async with StateManager(server.url, namespace=namespace) as state:
            tasks = [asyncio.create_task(work(state)) for _ in range(TASKS)]
            while kills < 8:
                count = successes
                await seen(lambda count=count: successes >= count + TASKS, "the calls go on")  # type: ignore[misc]
                # It may be between two connections.
                await seen(lambda: raw.client_kill_filter(_type="normal", skipme=True) > 0, "a connection is cut")
                kills += 1
            await asyncio.gather(*tasks)
            assert await state.get("counters", "visits") == {"n": successes}

    all_over(loop, main())


async def test_small_calls_and_big_ones_get_what_is_theirs(server: RedisServer, namespace: str, raw: redis.Redis) -> None:
    async def work(state: StateManager, number: int) -> None:
        for turn in range(5):
            value = f"{number}-{turn}" + "x" * (0 if number % 8 else BULK // 4)
            await state.set("small" if number % 8 else "big", f"{number}", value)
            assert await state.get("small" if number % 8 else "big", f"{number}") == value

    async with StateManager(named(server, namespace), namespace=namespace) as state:
        await asyncio.gather(*(work(state, number) for number in range(32)))
        assert connected(raw, namespace) <= 5, "four that are shared, and the one of connecting"


async def test_an_error_of_redis_is_the_result_of_its_own_call(server: RedisServer, namespace: str, raw: redis.Redis) -> None:
    raw.set(f"{namespace}:text", "a")
    raw.hset(f"{namespace}:hash", "f", "b")
    async with reaching(server.url) as router:
        wrong, right = f"{namespace}:text", f"{namespace}:hash"
        calls = [router.execute(key, "HGET", key, "f") for key in (right, wrong, right) * 10]
        found: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
        together = await router.gather([(key, ("HGET", key, "f")) for key in (right, wrong, right) * 10], return_exceptions=True)
        for replies in (found, together):
            assert replies[0::3] + replies[2::3] == [b"b"] * 20
            assert all(isinstance(error, ResponseError) and "WRONGTYPE" in str(error) for error in replies[1::3])


async def test_a_blocking_read_holds_up_nobody(server: RedisServer, namespace: str) -> None:
    async with reaching(server.url) as router:
        stream = f"{namespace}:stream"
        blocks = asyncio.create_task(router.execute_blocking(stream, "XREAD", "BLOCK", 10_000, "STREAMS", stream, "$"))
        for _ in range(50):
            await asyncio.wait_for(router.execute(namespace, "INCR", namespace), 2.0)
        while not blocks.done():  # whoever comes before the read has begun, comes again
            await router.execute(stream, "XADD", stream, "*", "f", "v")
        assert await blocks


async def test_blocking_reads_use_a_connection_again_unless_they_were_cut_off(
    server: RedisServer, namespace: str, raw: redis.Redis
) -> None:
    async with reaching(named(server, namespace)) as router:
        stream = f"{namespace}:stream"
        command = ("XREAD", "BLOCK", 10_000, "STREAMS", stream, "0")
        await router.execute(stream, "XADD", stream, "*", "f", "v")
        for _ in range(3):
            assert await router.execute_blocking(stream, *command)
        assert connected(raw, namespace) == 2, "one for calls, one apart"
        await asyncio.gather(*(router.execute_blocking(stream, *command) for _ in range(2)))
        assert connected(raw, namespace) == 3, "nobody waits for another's read"
        blocks = asyncio.create_task(router.execute_blocking(stream, *command[:-1], "$"))
        await asyncio.wait([blocks], timeout=0.05)
        blocks.cancel()
        await seen(lambda: connected(raw, namespace) == 2, "its reply would be another's")
        assert await router.execute_blocking(stream, *command)


async def test_invalidations_are_nobodys_replies(server: RedisServer, namespace: str, raw: redis.Redis) -> None:
    async with reaching(server.url) as router:
        assert await router.execute(namespace, "CLIENT", "TRACKING", "ON") == b"OK", "the connection takes pushed messages"
        for turn in range(20):
            raw.set(namespace, turn)
            calls = [router.execute(namespace, "GET", namespace), router.execute(namespace, "ECHO", "echo")]
            assert await soon(asyncio.gather(*calls)) == [b"%d" % turn, b"echo"]
        assert len(connections(router)) == 1


# -- opening and closing ------------------------------------------------------------------------------------------------------


async def test_after_a_time_out_calls_go_over_a_new_connection() -> None:
    async with FakeRedis() as fake, reaching(fake.url, patience=0.2) as router:
        with pytest.raises(RedisTimeoutError):
            await soon(call(router, "a"))
        fake.answer = echo
        assert await call(router, "b") == b"b"
        assert [peer.commands for peer in fake.peers] == [[[b"GET", b"a"]], [[b"GET", b"b"]]]


async def test_callers_of_a_server_that_does_not_open_connections_do_not_wait_for_each_other() -> None:
    async with FakeRedis(greeting=b"") as fake, reaching(fake.url, patience=0.3) as router:
        began = asyncio.get_running_loop().time()
        found = await asyncio.gather(*(call(router, str(number)) for number in range(16)), return_exceptions=True)
        assert {type(error) for error in found} == {RedisTimeoutError}
        assert asyncio.get_running_loop().time() - began < 2.0, "0.3 s each, not one after the other"


async def test_a_cancelled_caller_takes_no_connection_from_those_who_wait_for_it_too() -> None:
    async with FakeRedis(echo, greeting=b"") as fake, reaching(fake.url) as router:
        first, second = call(router, "1"), call(router, "2")
        await seen(lambda: bool(fake.peers), "it is being opened")
        first.cancel()
        await soon(asyncio.wait([first]))
        fake.peers[0].write(FakeRedis().greeting)
        assert await soon(second) == b"2"
        assert await soon(call(router, "3")) == b"3"
        assert len(fake.peers) == 1


async def test_a_caller_that_is_cancelled_while_a_connection_is_being_opened_leaves_it_to_the_next() -> None:
    async with FakeRedis(echo, greeting=b"") as fake:
        async with reaching(fake.url) as router:
            opening = call(router, "1")
            await seen(lambda: bool(fake.peers), "it is being opened")
            opening.cancel()
            await soon(asyncio.wait([opening]))
            fake.peers[0].write(FakeRedis().greeting)
            assert await soon(call(router, "2")) == b"2"
            assert len(fake.peers) == 1
        await fake.gone()


async def test_nobody_hears_of_an_opening_that_failed_when_all_who_waited_were_cancelled() -> None:
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with FakeRedis(greeting=b"") as fake, reaching(fake.url) as router:
        opening = call(router, "a")
        await seen(lambda: bool(fake.peers), "it is being opened")
        opening.cancel()
        await soon(asyncio.wait([opening]))
        del opening  # with what its traceback holds
        fake.peers[0].transport.abort()
        await seen(lambda: all(node.connections._opening.done() for node in router._nodes.values()), "the opening fails")
        fake.answer, fake.greeting = echo, FakeRedis().greeting
        assert await soon(call(router, "b")) == b"b"
        gc.collect()  # of the first opening
    assert complaints == []


async def test_closing_while_a_connection_is_being_opened_leaves_none() -> None:
    async with FakeRedis(echo, greeting=b"") as fake, reaching(fake.url) as router:
        calls = [call(router, key) for key in "ab"]
        await seen(lambda: bool(fake.peers), "it is being opened")
        (node,) = router._nodes.values()
        await router.aclose()
        calls.append(asyncio.create_task(node.connections.get(large=False)))  # by who was about to
        found = await soon(asyncio.gather(*calls, return_exceptions=True))
        assert {type(error) for error in found} == {RedisConnectionError}
        assert not any(failures.was_sent(error) for error in found)
        await fake.gone()
        assert len(fake.peers) == 1, "those who waited for it open no other"


async def test_cancelling_all_while_a_connection_is_being_opened_leaves_none() -> None:
    async with FakeRedis(echo, greeting=b"") as fake, reaching(fake.url) as router:
        opening = call(router, "a")
        await seen(lambda: bool(fake.peers), "it is being opened")
        opening.cancel()
        closing = asyncio.create_task(router.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        await soon(asyncio.wait([opening, closing]))
        gc.collect()  # a ResourceWarning, if it was left to that
        await fake.gone()


async def test_a_closing_that_is_cancelled_has_closed_all_the_same() -> None:
    async with FakeRedis() as fake, reaching(fake.url) as router:
        waits = call(router, "a")
        await seen(lambda: bool(fake.peers) and len(fake.peers[0].commands) == 1, "the call arrives")
        closing = asyncio.create_task(router.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(RedisConnectionError):
            await asyncio.wait_for(waits, PATIENCE / 5)
        await fake.gone()


@pytest.mark.parametrize("way", ["close", "abort"])
async def test_a_connection_that_ended_while_redis_py_had_it_is_no_link(way: str) -> None:
    class Late(Connection):
        async def connect(self) -> None:
            await super().connect()
            await seen(lambda: self._reader.at_eof() or self._writer.transport.is_closing(), "the end arrives")

    async with FakeRedis(greeted=lambda peer: getattr(peer.transport, way)()) as fake:
        with pytest.raises(RedisConnectionError, match="closed by server while connecting"):
            await soon(open_connection(Late(host="127.0.0.1", port=fake.port), PATIENCE))
        await fake.gone()


@both_loops
@pytest.mark.parametrize("way", ["close", "abort"])
def test_a_connection_that_ends_as_soon_as_it_is_open_gets_no_calls(loop: str, way: str) -> None:
    async def main() -> None:
        async with FakeRedis(echo, greeted=lambda peer: getattr(peer.transport, way)()) as fake, reaching(fake.url) as router:
            with pytest.raises(RedisConnectionError):
                await asyncio.wait_for(call(router, "a"), PATIENCE / 5)
            fake.greeted = lambda _: None
            assert await soon(call(router, "b")) == b"b"

    all_over(loop, main())


async def test_where_no_more_connections_are_to_be_had_calls_wait_behind_big_ones() -> None:
    async with FakeRedis(starts_big) as fake, reaching(fake.url) as router:
        large = call(router, "big")
        await seen(lambda: bool(fake.peers) and connections(router)[0].is_congested, "the reply has begun to come")
        fake.answer, fake.greeting = lambda *_: None, b"-ERR max number of clients reached\r\n"
        waits = call(router, "small")
        await seen(lambda: [b"GET", b"small"] in fake.peers[0].commands, "the call arrives")
        fake.peers[0].write(text(bytes(BULK))[2 * LARGE :] + text(b"small"))
        assert await soon(asyncio.gather(large, waits)) == [bytes(BULK), b"small"]


# -- TLS, and where there is no transport -------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return create_certificate(tmp_path)


@both_loops
def test_connections_are_shared_over_tls(loop: str, certificate: Certificate) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)

    async def main() -> None:
        async with FakeRedis(echo, tls=tls) as fake:
            async with reaching(f"rediss://127.0.0.1:{fake.port}/0?ssl_ca_certs={certificate.certificate}") as router:
                keys = [f"{number}" for number in range(TASKS)]
                found = await asyncio.gather(*(router.execute(key, "GET", key) for key in keys))
                assert found == [key.encode() for key in keys]
                large = bytes(BULK)
                found = await asyncio.gather(
                    *(router.execute(key, "ECHO", large) for key in keys[:4]), router.execute("a", "GET", "a")
                )
                assert found == [large] * 4 + [b"a"]
                assert len(fake.peers) <= 4
                waits = asyncio.create_task(router.execute("silence", "GET", "silence"))
                fake.answer = lambda *_: None
                await seen(lambda: fake.peers[0].commands[-1][-1] == b"silence", "the last call arrives")
            assert isinstance((await asyncio.gather(waits, return_exceptions=True))[0], RedisError)
            await fake.gone()

    all_over(loop, main())


async def test_where_there_is_no_transport_everything_goes_through_redis_py(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, given = fakeredis.FakeServer(), []
    get = ConnectionGroup.get

    async def watched(self: ConnectionGroup, *, large: bool) -> Any:
        given.append(await get(self, large=large))
        return given[-1]

    monkeypatch.setattr(endpoint, "_connect", lambda *_: fakeredis.FakeAsyncRedis(server=fake))
    monkeypatch.setattr(ConnectionGroup, "get", watched)
    async with StateManager("redis://fake") as state:
        await asyncio.gather(*(state.set("users", f"{number}", number) for number in range(TASKS)))
        await state.set("users", "big", "x" * LARGE)
        assert await state.get("users", "big") == "x" * LARGE
        assert await state.get("users", "7") == 7
        assert await state.count("users") == TASKS + 1
    assert len(given) > TASKS
    assert set(given) == {None}
