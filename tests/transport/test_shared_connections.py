"""Connection groups: sharing on a real Redis and over TLS, connecting and closing on a fake one."""

from __future__ import annotations

import asyncio
import gc
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from motia_redis import StateManager
from motia_redis._transport import failures
from motia_redis._transport.connecting import open_connection
from motia_redis._transport.failures import ConnectFailed, NotSent
from motia_redis._transport.multiplexing import LARGE
from motia_redis._transport.urls import Server
from tests.support.certificates import Certificate, create_certificate
from tests.support.fake_redis import (
    LARGE_SIZE,
    REPLY_TIMEOUT,
    FakeRedis,
    ManualClock,
    begin_large_reply,
    bulk_reply,
    connections,
    echo,
    open_router,
    start_get,
)
from tests.support.loops import both_loops, run_in_loop
from tests.support.waiting import until_holds, wait_until, within_deadline

if TYPE_CHECKING:
    import redis

    from tests.support.servers import RedisServer

TASKS = 64
INCREMENT = [{"op": "increment", "path": "/n", "value": 1}]


def url_with_name(server: RedisServer, name: str) -> str:
    return f"{server.url}?client_name={name}"


def count_clients(raw: redis.Redis, name: str) -> int:
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
        async with StateManager(url_with_name(server, namespace), namespace=namespace) as state:
            raw.script_flush()
            before: Any = raw.info("stats")
            await asyncio.gather(*(work(state, number) for number in range(TASKS)))
            after: Any = raw.info("stats")
            assert 1 <= count_clients(raw, namespace) <= 4
            calls_made = TASKS * 20 * 2
            sent = after["total_net_input_bytes"] - before["total_net_input_bytes"]
            assert sent < 1_000 * calls_made, "one call sends the script, not each one that waits"
            calls = after["total_commands_processed"] - before["total_commands_processed"]
            assert calls >= calls_made
            assert after["total_reads_processed"] - before["total_reads_processed"] < calls / 5
        wait_until(lambda: not count_clients(raw, namespace), "a closed manager leaves no connection")
        gc.collect()

    run_in_loop(loop, main())


@both_loops
def test_mutations_are_applied_once_while_connections_are_closed(
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
                await until_holds(lambda count=count: successes >= count + TASKS, "calls succeed again")  # type: ignore[misc]
                # At this moment the manager may have no connection.
                await until_holds(lambda: raw.client_kill_filter(_type="normal", skipme=True) > 0, "a connection is closed")
                kills += 1
            await asyncio.gather(*tasks)
            assert await state.get("counters", "visits") == {"n": successes}

    run_in_loop(loop, main())


async def test_small_and_large_calls_get_their_own_replies(server: RedisServer, namespace: str, raw: redis.Redis) -> None:
    async def work(state: StateManager, number: int) -> None:
        for turn in range(5):
            value = f"{number}-{turn}" + "x" * (0 if number % 8 else LARGE_SIZE // 4)
            await state.set("small" if number % 8 else "large", f"{number}", value)
            assert await state.get("small" if number % 8 else "large", f"{number}") == value

    async with StateManager(url_with_name(server, namespace), namespace=namespace) as state:
        await asyncio.gather(*(work(state, number) for number in range(32)))
        assert count_clients(raw, namespace) <= 5, "four shared connections, and the one that opened the namespace"


async def test_error_reply_fails_only_its_own_call(server: RedisServer, namespace: str, raw: redis.Redis) -> None:
    raw.set(f"{namespace}:text", "a")
    raw.hset(f"{namespace}:hash", "f", "b")
    async with open_router(server.url) as router:
        wrong, right = f"{namespace}:text", f"{namespace}:hash"
        calls = [router.execute(key, "HGET", key, "f") for key in (right, wrong, right) * 10]
        found: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
        together = await router.gather([(key, ("HGET", key, "f")) for key in (right, wrong, right) * 10], return_exceptions=True)
        for replies in (found, together):
            assert replies[0::3] + replies[2::3] == [b"b"] * 20
            assert all(isinstance(error, ResponseError) and "WRONGTYPE" in str(error) for error in replies[1::3])


async def test_blocking_read_does_not_delay_other_calls(server: RedisServer, namespace: str) -> None:
    async with open_router(server.url) as router:
        stream = f"{namespace}:stream"
        blocks = asyncio.create_task(router.execute_blocking(stream, "XREAD", "BLOCK", 60_000, "STREAMS", stream, "$"))
        for _ in range(50):
            await within_deadline(router.execute(namespace, "INCR", namespace))
        assert not blocks.done()
        while not blocks.done():  # repeated, because an entry from before the read would not end it
            await router.execute(stream, "XADD", stream, "*", "f", "v")
        assert await blocks


async def test_dedicated_connection_is_reused_unless_its_read_was_cancelled(
    server: RedisServer, namespace: str, raw: redis.Redis
) -> None:
    async with open_router(url_with_name(server, namespace)) as router:
        stream = f"{namespace}:stream"
        command = ("XREAD", "BLOCK", 10_000, "STREAMS", stream, "0")
        await router.execute(stream, "XADD", stream, "*", "f", "v")
        for _ in range(3):
            assert await router.execute_blocking(stream, *command)
        assert count_clients(raw, namespace) == 2, "one shared and one dedicated connection"
        await asyncio.gather(*(router.execute_blocking(stream, *command) for _ in range(2)))
        assert count_clients(raw, namespace) == 3, "concurrent blocking reads use separate connections"
        blocks = asyncio.create_task(router.execute_blocking(stream, *command[:-1], "$"))
        await asyncio.wait([blocks], timeout=0.05)
        blocks.cancel()
        await until_holds(lambda: count_clients(raw, namespace) == 2, "the connection of a cancelled read is closed")
        assert await router.execute_blocking(stream, *command)


async def test_invalidation_messages_are_not_taken_for_replies(server: RedisServer, namespace: str, raw: redis.Redis) -> None:
    async with open_router(server.url) as router:
        assert await router.execute(namespace, "CLIENT", "TRACKING", "ON") == b"OK", "the server will send push messages"
        for turn in range(20):
            raw.set(namespace, turn)
            calls = [router.execute(namespace, "GET", namespace), router.execute(namespace, "ECHO", "echo")]
            assert await within_deadline(asyncio.gather(*calls)) == [b"%d" % turn, b"echo"]
        assert len(connections(router)) == 1


# -- connecting and closing ----------------------------------------------------------------------------------------------------


async def test_calls_after_a_time_out_use_a_new_connection() -> None:
    async with FakeRedis() as fake, open_router(fake.url) as router:
        waiting = start_get(router, "a")
        await until_holds(lambda: bool(fake.peers) and len(fake.peers[0].commands) == 1, "the call arrives")
        ManualClock(connections(router)[0]).advance(REPLY_TIMEOUT + 1)
        with pytest.raises(RedisTimeoutError):
            await within_deadline(waiting)
        fake.answer = echo
        assert await start_get(router, "b") == b"b"
        assert [peer.commands for peer in fake.peers] == [[[b"GET", b"a"]], [[b"GET", b"b"]]]


async def test_concurrent_calls_to_a_silent_server_time_out_together() -> None:
    async with FakeRedis(greeting=b"") as fake, open_router(fake.url, reply_timeout=0.3) as router:
        found = await asyncio.gather(*(start_get(router, str(number)) for number in range(16)), return_exceptions=True)
        assert {type(error) for error in found} == {ConnectFailed}
        assert len(fake.peers) == 1, "the calls wait for the same connect"


async def test_cancelled_caller_does_not_cancel_the_connect_for_other_callers() -> None:
    async with FakeRedis(echo, greeting=b"") as fake, open_router(fake.url) as router:
        first, second = start_get(router, "1"), start_get(router, "2")
        await until_holds(lambda: bool(fake.peers), "a connect has begun")
        first.cancel()
        await within_deadline(asyncio.wait([first]))
        fake.peers[0].write(FakeRedis().greeting)
        assert await within_deadline(second) == b"2"
        assert await within_deadline(start_get(router, "3")) == b"3"
        assert len(fake.peers) == 1


async def test_next_caller_uses_the_connect_of_a_cancelled_caller() -> None:
    async with FakeRedis(echo, greeting=b"") as fake:
        async with open_router(fake.url) as router:
            opening = start_get(router, "1")
            await until_holds(lambda: bool(fake.peers), "a connect has begun")
            opening.cancel()
            await within_deadline(asyncio.wait([opening]))
            fake.peers[0].write(FakeRedis().greeting)
            assert await within_deadline(start_get(router, "2")) == b"2"
            assert len(fake.peers) == 1
        await fake.wait_closed()


async def test_failed_connect_of_cancelled_callers_logs_no_unretrieved_error() -> None:
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with FakeRedis(greeting=b"") as fake, open_router(fake.url) as router:
        opening = start_get(router, "a")
        await until_holds(lambda: bool(fake.peers), "a connect has begun")
        opening.cancel()
        await within_deadline(asyncio.wait([opening]))
        del opening  # its traceback holds references
        fake.peers[0].transport.abort()
        await until_holds(lambda: all(node.connections._opening.done() for node in router._nodes.values()), "the connect fails")
        fake.answer, fake.greeting = echo, FakeRedis().greeting
        assert await within_deadline(start_get(router, "b")) == b"b"
        gc.collect()  # collects the task of the first connect
    assert complaints == []


async def test_close_during_connect_leaves_no_connection() -> None:
    async with FakeRedis(echo, greeting=b"") as fake, open_router(fake.url) as router:
        calls = [start_get(router, key) for key in "ab"]
        await until_holds(lambda: bool(fake.peers), "a connect has begun")
        (node,) = router._nodes.values()
        await router.aclose()
        calls.append(asyncio.create_task(node.connections.get(large=False)))  # a call that begins after close
        found = await within_deadline(asyncio.gather(*calls, return_exceptions=True))
        assert {type(error) for error in found} == {NotSent}
        assert not any(failures.was_sent(error) for error in found)
        await fake.wait_closed()
        assert len(fake.peers) == 1, "waiting calls open no second connection"


async def test_cancelled_call_and_cancelled_close_during_connect_leave_no_connection() -> None:
    async with FakeRedis(echo, greeting=b"") as fake, open_router(fake.url) as router:
        opening = start_get(router, "a")
        await until_holds(lambda: bool(fake.peers), "a connect has begun")
        opening.cancel()
        closing = asyncio.create_task(router.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        await within_deadline(asyncio.wait([opening, closing]))
        gc.collect()  # raises a ResourceWarning for a transport that was not closed
        await fake.wait_closed()


async def test_cancelled_close_still_closes_all_connections() -> None:
    async with FakeRedis() as fake, open_router(fake.url) as router:
        waiting = start_get(router, "a")
        await until_holds(lambda: bool(fake.peers) and len(fake.peers[0].commands) == 1, "the call arrives")
        closing = asyncio.create_task(router.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(RedisConnectionError):
            await within_deadline(waiting)
        await fake.wait_closed()


@pytest.mark.parametrize("close_method", ["close", "abort"])
async def test_connection_that_ends_during_connect_is_rejected(close_method: str) -> None:
    async with FakeRedis(greeting=b"", on_greeted=lambda peer: getattr(peer.transport, close_method)()) as fake:
        with pytest.raises(ConnectFailed, match="while connecting"):
            await within_deadline(open_connection(Server(host="127.0.0.1", port=fake.port), REPLY_TIMEOUT))
        await fake.wait_closed()


@both_loops
@pytest.mark.parametrize("close_method", ["close", "abort"])
def test_connection_that_ends_after_connect_gets_no_calls(loop: str, close_method: str) -> None:
    async def main() -> None:
        async with (
            FakeRedis(echo, on_greeted=lambda peer: getattr(peer.transport, close_method)()) as fake,
            open_router(fake.url) as router,
        ):
            with pytest.raises(RedisConnectionError):
                await within_deadline(start_get(router, "a"))
            fake.on_greeted = lambda _: None
            assert await within_deadline(start_get(router, "b")) == b"b"

    run_in_loop(loop, main())


async def test_small_call_waits_behind_a_large_reply_when_redis_accepts_no_more_clients() -> None:
    async with FakeRedis(begin_large_reply) as fake, open_router(fake.url) as router:
        large = start_get(router, "large")
        await until_holds(lambda: bool(fake.peers) and connections(router)[0].is_congested, "the first bytes of the reply arrive")
        fake.answer, fake.greeting = lambda *_: None, b"-ERR max number of clients reached\r\n"
        waiting = start_get(router, "small")
        await until_holds(lambda: [b"GET", b"small"] in fake.peers[0].commands, "the call arrives")
        fake.peers[0].write(bulk_reply(bytes(LARGE_SIZE))[2 * LARGE :] + bulk_reply(b"small"))
        assert await within_deadline(asyncio.gather(large, waiting)) == [bytes(LARGE_SIZE), b"small"]


# -- TLS ----------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return create_certificate(tmp_path)


@both_loops
def test_connections_are_shared_over_tls(loop: str, certificate: Certificate) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)

    async def main() -> None:
        async with FakeRedis(echo, tls=tls) as fake:
            async with open_router(f"rediss://127.0.0.1:{fake.port}/0?ssl_ca_certs={certificate.certificate}") as router:
                keys = [f"{number}" for number in range(TASKS)]
                found = await asyncio.gather(*(router.execute(key, "GET", key) for key in keys))
                assert found == [key.encode() for key in keys]
                large = bytes(LARGE_SIZE)
                found = await asyncio.gather(
                    *(router.execute(key, "ECHO", large) for key in keys[:4]), router.execute("a", "GET", "a")
                )
                assert found == [large] * 4 + [b"a"]
                assert len(fake.peers) <= 4
                waiting = asyncio.create_task(router.execute("silence", "GET", "silence"))
                fake.answer = lambda *_: None
                await until_holds(lambda: fake.peers[0].commands[-1][-1] == b"silence", "the last call arrives")
            assert isinstance((await asyncio.gather(waiting, return_exceptions=True))[0], RedisError)
            await fake.wait_closed()

    run_in_loop(loop, main())


async def test_server_with_too_many_clients_is_a_failed_connection_and_no_refusal() -> None:
    greeting = b"-ERR max number of clients reached\r\n"
    async with FakeRedis(greeting=greeting, on_greeted=lambda peer: peer.transport.close()) as fake:
        with pytest.raises(ConnectFailed, match="max number of clients"):
            await within_deadline(open_connection(Server(host="127.0.0.1", port=fake.port), REPLY_TIMEOUT))
