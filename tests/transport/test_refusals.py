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
from motia_redis._transport import connecting, failures, refusals
from motia_redis.errors import StateUnavailable
from tests.support.waiting import DEADLINE, until, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.support.servers import RedisServer


async def refusal_of(url: str, call: Callable[[StateManager], Any], namespace: str = "refusals") -> str:
    """Return the message of the StateUnavailable that a call raises, without position in a script and password."""
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


async def test_wrong_password_and_missing_permission_are_explained(start_server: Callable[..., tuple[RedisServer, int]]) -> None:
    _server, port = start_server()
    address = f"127.0.0.1:{port}"
    get: Callable[[StateManager], Any] = lambda state: state.get("users", "ann")  # noqa: E731
    with redis.Redis(port=port) as admin:
        admin.execute_command("ACL", "SETUSER", "limited", "on", ">secret", "~refusals:*", "~{refusals:*", "+@all", "-@write")
        admin.execute_command("ACL", "SETUSER", "nokeys", "on", ">secret", "~other", "+@all")
        admin.config_set("requirepass", "secret")
        assert "needs a password" in await refusal_of(f"redis://{address}", get)
        assert "rejects the user or the password" in await refusal_of(f"redis://:secret2@{address}", get)
        async with StateManager(f"redis://:secret@{address}", namespace="refusals") as state:
            await state.set("users", "ann", 1)
        limited = f"redis://limited:secret@{address}"
        async with StateManager(limited, namespace="refusals") as state:
            assert await state.get("users", "ann") == 1
        assert "denies this user" in await refusal_of(limited, lambda state: state.set("users", "ann", 2))
        assert "denies this user" in await refusal_of(f"redis://nokeys:secret@{address}", get)


async def test_full_redis_rejects_writes_and_serves_reads(start_server: Callable[..., tuple[RedisServer, int]]) -> None:
    server, _port = start_server()
    async with StateManager(server.url, namespace="refusals") as state:
        await state.set("users", "ann", 1)
    with redis.Redis.from_url(server.url) as admin:
        admin.config_set("maxmemory", "1mb")
        assert "is full (maxmemory): nothing was changed" in await refusal_of(server.url, lambda s: s.set("users", "ann", 2))
        assert "is full (maxmemory)" in await refusal_of(server.url, lambda s: s.enqueue("topic", 2))
    async with StateManager(server.url, namespace="refusals") as state:
        assert await state.get("users", "ann") == 1


async def test_replica_rejects_writes_and_serves_reads(start_server: Callable[..., tuple[RedisServer, int]]) -> None:
    _primary, port = start_server()
    replica, _ = start_server("--replicaof", "127.0.0.1", str(port))
    async with StateManager(f"redis://127.0.0.1:{port}", namespace="refusals") as state:
        await state.set("users", "ann", 1)
    with redis.Redis.from_url(replica.url) as client:
        wait_until(lambda: bool(client.exists("refusals:layout")), "the replica has the layout", deadline=60)
        wait_until(lambda: client.info("replication")["master_link_status"] == "up", "the replica is in sync")  # type: ignore[index]
    async with StateManager(replica.url, namespace="refusals") as state:

        async def arrived() -> bool:
            return bool(await state.get("users", "ann") == 1)

        await until(arrived, "the value is on the replica")
        assert await state.list("users") == [1]
        assert await state.list_groups() == ["users"]
    assert "is a read-only replica" in await refusal_of(replica.url, lambda s: s.set("users", "ann", 2))
    assert "is a read-only replica" in await refusal_of(replica.url, lambda s: s.get("users", "ann"), "nothing-here")


@pytest.mark.parametrize("part", ["values", "revisions", "scopes", "events"])
async def test_mutation_is_rejected_when_a_key_holds_another_type(
    server: RedisServer, namespace: str, raw: redis.Redis, part: str
) -> None:
    names = Keyspace(namespace, Layout()).state_keys(b"users", b"ann")
    raw.set(getattr(names, part), "text")
    assert "holds another type under a key of this library" in await refusal_of(
        server.url, lambda s: s.set("users", "ann", 1), namespace
    )


async def test_call_is_rejected_when_the_layout_key_holds_another_type(
    server: RedisServer, namespace: str, raw: redis.Redis
) -> None:
    raw.set(f"{namespace}:layout", "text")
    assert "holds another type" in await refusal_of(server.url, lambda s: s.get("users", "ann"), namespace)


@asynccontextmanager
async def fixed_reply(reply: bytes) -> AsyncIterator[int]:
    """Serve a port with one reply to all requests; an empty reply means none."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            writer.write(reply)
        writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


async def test_server_that_is_not_redis_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    get: Callable[[StateManager], Any] = lambda state: state.get("users", "ann")  # noqa: E731
    async with fixed_reply(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n") as port:
        assert "is not a Redis" in await refusal_of(f"redis://127.0.0.1:{port}", get)
    monkeypatch.setattr(connecting, "CONNECT_TIMEOUT", 0.2)
    async with fixed_reply(b"") as port, asyncio.timeout(DEADLINE):
        assert "no reply in time" in await refusal_of(f"redis://127.0.0.1:{port}", get)


async def test_loading_redis_is_explained() -> None:
    async with fixed_reply(b"-LOADING Redis is loading the dataset in memory\r\n") as port:
        message = await refusal_of(f"redis://127.0.0.1:{port}", lambda state: state.get("users", "ann"))
        assert "is loading its data: try again" in message


def test_time_out_without_a_text_is_explained() -> None:
    assert str(failures.to_unavailable("here", "rediss://h", TimeoutError())) == (
        "here: cannot reach Redis at rediss://h: no reply in time: check that a Redis with TLS listens there and is not blocked"
    )


def test_unnecessary_password_is_explained() -> None:
    error = failures.error_reply("ERR AUTH <password> called without any password configured for the default user.")
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
        (
            "WRONGTYPE Operation against a key holding the wrong kind of value script: on @user_script:1.",
            "holds another type ",
            " (WRONGTYPE Operation against a key holding the wrong kind of value)",
        ),
    ],
)
def test_position_inside_a_script_is_removed_from_the_error(text: str, begin: str, end: str) -> None:
    """The cases are the forms of Redis 6.2, Redis 7 and Valkey 9."""
    error = failures.error_reply(text)
    message = refusals.explain(error.code, str(error))
    assert message.startswith(begin)
    assert message.endswith(end)
    assert message.count("(") == 1 + begin.count("(")


def test_text_of_a_user_that_looks_like_a_position_in_a_script_stays() -> None:
    text = "UNKNOWN key 'a script: on @user_script:1. b'"
    assert str(failures.error_reply(text)) == text


@pytest.mark.parametrize(
    ("text", "explanation"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'. script: on @user_script:41.", "is full (maxmemory)"),
        ("READONLY You can't write against a read only replica. script: on @user_script:41.", "is a read-only replica"),
        ("ERR ACL failure in script: No permissions to access a key script: on @user_script:1.", "denies this user"),
        ("NOPERM No permissions to access a key", "denies this user"),
    ],
)
def test_errors_of_valkey_are_explained_without_the_position_in_a_script(text: str, explanation: str) -> None:
    error = failures.error_reply(text)
    message = refusals.explain(error.code, str(error))
    assert message.startswith(explanation)
    assert "user_script" not in message
