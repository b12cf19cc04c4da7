"""Error replies of Redis: each becomes one StateUnavailable that explains the cause and the remedy."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import redis

from motia_redis import StateManager
from motia_redis._store.keyspace import Keyspace, Layout
from motia_redis._transport import endpoint, failures, refusals
from motia_redis.errors import StateUnavailable
from tests.support.waiting import until, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.support.servers import RedisServer


async def refused(url: str, call: Callable[[StateManager], Any], namespace: str = "refusals") -> str:
    """Return the message of the StateUnavailable that a call raises; it has no noise in it and no secret."""
    manager = StateManager(url, namespace=namespace)
    try:
        with pytest.raises(StateUnavailable) as error:
            await call(manager)
    finally:
        await manager.close()
    text = str(error.value)
    assert not re.search(r"user_script|Error running script|[0-9a-f]{40}|secret", text), text
    assert "\n" not in text
    return text


async def test_passwords_and_permissions(spare: Callable[..., tuple[RedisServer, int]]) -> None:
    _server, port = spare()
    address = f"127.0.0.1:{port}"
    get: Callable[[StateManager], Any] = lambda state: state.get("users", "ann")  # noqa: E731
    with redis.Redis(port=port) as admin:
        admin.execute_command("ACL", "SETUSER", "limited", "on", ">secret", "~refusals:*", "~{refusals:*", "+@all", "-@write")
        admin.execute_command("ACL", "SETUSER", "nokeys", "on", ">secret", "~other", "+@all")
        admin.config_set("requirepass", "secret")
        assert "needs a password" in await refused(f"redis://{address}", get)
        assert "rejects the user or the password" in await refused(f"redis://:secret2@{address}", get)
        async with StateManager(f"redis://:secret@{address}", namespace="refusals") as state:
            await state.set("users", "ann", 1)
        limited = f"redis://limited:secret@{address}"
        async with StateManager(limited, namespace="refusals") as state:
            assert await state.get("users", "ann") == 1
        assert "denies this user" in await refused(limited, lambda state: state.set("users", "ann", 2))
        assert "denies this user" in await refused(f"redis://nokeys:secret@{address}", get)


async def test_a_full_redis(spare: Callable[..., tuple[RedisServer, int]]) -> None:
    server, _port = spare()
    async with StateManager(server.url, namespace="refusals") as state:
        await state.set("users", "ann", 1)
    with redis.Redis.from_url(server.url) as admin:
        admin.config_set("maxmemory", "1mb")
        assert "is full (maxmemory): nothing was changed" in await refused(server.url, lambda s: s.set("users", "ann", 2))
        assert "is full (maxmemory)" in await refused(server.url, lambda s: s.enqueue("topic", 2))
    async with StateManager(server.url, namespace="refusals") as state:
        assert await state.get("users", "ann") == 1


async def test_a_replica_can_be_read(spare: Callable[..., tuple[RedisServer, int]]) -> None:
    _primary, port = spare()
    replica, _ = spare("--replicaof", "127.0.0.1", str(port))
    async with StateManager(f"redis://127.0.0.1:{port}", namespace="refusals") as state:
        await state.set("users", "ann", 1)
    with redis.Redis.from_url(replica.url) as client:
        wait_until(lambda: bool(client.exists("refusals:layout")), "the replica has the layout", deadline=60)
        wait_until(lambda: client.info("replication")["master_link_status"] == "up", "in step")  # type: ignore[index]
    async with StateManager(replica.url, namespace="refusals") as state:

        async def arrived() -> bool:
            return bool(await state.get("users", "ann") == 1)

        await until(arrived, "the value is on the replica")
        assert await state.list("users") == [1]
        assert await state.list_groups() == ["users"]
    assert "is a read-only replica" in await refused(replica.url, lambda s: s.set("users", "ann", 2))
    assert "is a read-only replica" in await refused(replica.url, lambda s: s.get("users", "ann"), "nothing-here")


@pytest.mark.parametrize("part", ["values", "revisions", "scopes", "events"])
async def test_another_type_under_one_of_our_keys(server: RedisServer, namespace: str, raw: redis.Redis, part: str) -> None:
    names = Keyspace(namespace, Layout()).state_keys(b"users", b"ann")
    raw.set(getattr(names, part), "text")
    assert "holds another type under a key of this library" in await refused(
        server.url, lambda s: s.set("users", "ann", 1), namespace
    )


async def test_another_type_under_the_layout(server: RedisServer, namespace: str, raw: redis.Redis) -> None:
    raw.set(f"{namespace}:layout", "text")
    assert "holds another type" in await refused(server.url, lambda s: s.get("users", "ann"), namespace)


@asynccontextmanager
async def answering(reply: bytes) -> AsyncIterator[int]:
    """Listen like a program that gives one answer to everything (none: that waits for more)."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            writer.write(reply)
        writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


async def test_a_server_that_is_no_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    get: Callable[[StateManager], Any] = lambda state: state.get("users", "ann")  # noqa: E731
    async with answering(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n") as port:
        assert "is not a Redis" in await refused(f"redis://127.0.0.1:{port}", get)
    monkeypatch.setattr(endpoint, "CONNECT_TIMEOUT", 0.2)
    async with answering(b"") as port, asyncio.timeout(5):
        assert "no reply in time" in await refused(f"redis://127.0.0.1:{port}", get)


async def test_a_redis_that_loads_its_data() -> None:
    async with answering(b"-LOADING Redis is loading the dataset in memory\r\n") as port:
        message = await refused(f"redis://127.0.0.1:{port}", lambda state: state.get("users", "ann"))
        assert "is loading its data: try again" in message


def test_a_password_that_redis_does_not_want() -> None:
    error = redis.AuthenticationError("AUTH <password> called without any password configured for the default user.")
    assert str(failures.to_unavailable("here", "redis://:secret@host", error)).startswith(
        "here: Redis at redis://host has no password, but the URL has one"
    )


@pytest.mark.parametrize(
    ("text", "begin", "end"),
    [
        (
            "ERR Error running script (call to f_" + "a" * 40 + "): @user_script:1259: @user_script: 1259: "
            "-OOM command not allowed when used memory > 'maxmemory'. ",
            "is full (maxmemory): ",
            " (OOM command not allowed when used memory > 'maxmemory'.)",
        ),
        (
            "WRONGTYPE Operation against a key holding the wrong kind of value script: " + "b" * 40 + ", on @user_script:1259.",
            "holds another type ",
            " (WRONGTYPE Operation against a key holding the wrong kind of value)",
        ),
    ],
)
def test_noise_of_scripts_is_cut(text: str, begin: str, end: str) -> None:
    """As Redis 6.2 and 7 write it."""
    told = refusals.refusal(redis.ResponseError(text))
    assert told is not None
    assert told.startswith(begin)
    assert told.endswith(end)
    assert told.count("(") == 1 + begin.count("(")
