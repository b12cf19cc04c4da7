"""Access to Redis: TLS, users with least privilege, and the supported servers."""

from __future__ import annotations

import asyncio
import re
import ssl
import threading
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fakeredis
import pytest
import redis

from motia_redis import StateManager, cron, queue, step
from motia_redis import state as state_trigger
from motia_redis._admin.dead_letters import DeadLetters
from motia_redis._admin.doctor import examine
from motia_redis._admin.scheduled import Scheduled
from motia_redis._admin.status import read_status
from motia_redis.admin import copy_changes, finish_copy
from motia_redis.errors import RevisionConflict, StateUnavailable, UpdateFailed
from tests.support.certificates import create_certificate
from tests.support.clocks import set_namespace_clock
from tests.support.clusters import Process, free_port
from tests.support.dead_letters import FailingHandler, failing_step, wait_for_dead_letters
from tests.support.servers import PACKAGED, has_functions, packaged
from tests.support.waiting import until
from tests.support.watching import take_changes, take_snapshot
from tests.support.workers import Recorder, record, working

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.support.certificates import Certificate
    from tests.support.servers import RedisServer

PAGE = Path(__file__).parent.parent.parent / "docs" / "operating.md"
INCREMENT = [{"op": "increment", "path": "/n", "value": 1}]


async def make_effects(input: Any, ctx: Any) -> None:
    """Change something as a handler does that makes its effects once."""
    await ctx.state.clear("cache")
    await ctx.state.update("log", "cleared", [{"op": "add", "path": "", "value": 1}])
    await ctx.state.cancel(await ctx.enqueue({"topic": "never", "data": 1}, delay=1000))


async def make_all_calls(state: StateManager) -> None:
    """Make each kind of call once."""
    await state.set("users", "ann", {"n": 1, "tags": [], "big": 9007199254740993})
    assert await state.update("users", "ann", INCREMENT) == {"n": 2, "tags": [], "big": 9007199254740993}
    assert await state.update("users", "ann", INCREMENT, idempotency_key="a") == {"n": 3, "tags": [], "big": 9007199254740993}
    assert (await state.update("users", "ann", INCREMENT, idempotency_key="a"))["n"] == 3
    with pytest.raises(UpdateFailed):
        await state.update("users", "ann", [*INCREMENT, {"op": "test", "path": "/n", "value": 0}])
    with pytest.raises(RevisionConflict):
        await state.set("users", "ann", 1, if_revision=None)
    assert await state.entry("users", "ann") is not None
    recorder, ticks, failing = Recorder(), Recorder(), FailingHandler()
    steps = [
        record(recorder, state_trigger(scope="orders"), queue("mail")),
        failing_step(failing, "Sick", state_trigger(scope="orders")),
        record(ticks, cron("* * * * *"), name="Tick"),
        step({"name": "Once", "triggers": [state_trigger(scope="orders")], "effects_once": True}).handle(make_effects),
    ]
    async with working(state, *steps):
        await state.set("orders", "one", 1)
        await state.enqueue("mail", "hello")
        await state.enqueue("mail", "later", delay=0.1)
        assert await state.cancel(await state.enqueue("mail", "never", delay=1000))
        await state.enqueue("mail", "late", delay=1000)
        assert [message.data for message in await Scheduled(state).list("mail")][-1:] == ["late"]
        await recorder.wait(3)
        letters = DeadLetters(state)
        found = await wait_for_dead_letters(letters, 1)
        failing.fixed = True
        await letters.retry("Sick", found[0].id)
        await failing.received.wait(1)
        status = await read_status(state)
        assert (len(status.steps), status.delayed) == (4, 1)

        async def has_cleared() -> bool:
            return await state.get("log", "cleared") == 1

        await until(has_cleared, "the effects were made")
        await set_namespace_clock(state, 60)
        await ticks.wait(1)
    await state.clear("log")
    assert await state.list("orders") == [1]
    assert sorted(await state.list_groups()) == ["orders", "users"]
    await state.clear("orders")
    async with state.watch("users", start="snapshot") as watch, state.mirror("users") as mirror:
        assert [change.key for change in await take_snapshot(watch)] == ["ann"] == list(mirror)
        await state.set("users", "bob", 1)
        (change,) = await take_changes(watch, 1)
        await state.delete("users", "bob")
        async with state.watch("users", start=change.cursor) as later:
            assert [change.type for change in await take_changes(later, 1)] == ["state:deleted"]
    assert (await state.delete("users", "ann"))["n"] == 3
    assert await state.list_groups() == []


async def copy_between(url: str, source: str, target: str) -> None:
    """Copy a namespace that has something of each kind, but for dead letters."""
    async with StateManager(url, namespace=source) as state, StateManager(url, namespace=target) as copied:
        async with working(state, record(Recorder(), cron("0 3 * * *"))):
            await state.set("users", "ann", 1, ttl=1000)
            await state.enqueue("unread", 1)
            await state.enqueue("late", 1, delay=1000)
        await copy_changes(state, copied)
        await state.delete("users", "ann")
        assert (await finish_copy(state, copied)).is_finished


# -- TLS ----------------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def tls_proxy(server: RedisServer, certificate: Certificate) -> AsyncIterator[int]:
    """Serve a port over TLS in front of the server, because the servers in Python packages are built without TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    tasks = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_unix_connection(str(server.socket))
        for task in (asyncio.create_task(copy(reader, to_server)), asyncio.create_task(copy(from_server, writer))):
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    listening = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        await asyncio.gather(*tasks)


async def test_all_calls_work_over_tls(server: RedisServer, namespace: str, tmp_path: Path) -> None:
    created = create_certificate(tmp_path)
    async with tls_proxy(server, created) as port:
        url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={created.certificate}"
        async with StateManager(url, namespace=namespace) as state:
            await make_all_calls(state)
        with pytest.raises(StateUnavailable, match="certificate verify failed"):
            await StateManager(f"rediss://127.0.0.1:{port}/0").connect()


# -- users --------------------------------------------------------------------------------------------------------------------


def documented_rule() -> list[str]:
    """Return the words of the ACL rule in docs/operating.md."""
    match = re.search(r"ACL SETUSER motia (.*?)```", PAGE.read_text(), re.DOTALL)
    assert match, "the page documents a rule"
    lines = match[1].split("\\\n")
    if not has_functions():
        lines = [line for line in lines if "+fcall" not in line]
    return " ".join(lines).split()


async def test_credentials_are_asked_for_before_each_connection(tmp_path: Path) -> None:
    server = Process(tmp_path / "server", free_port(), "--save", "")
    try:
        server.start()
        server.client.execute_command("ACL", "SETUSER", "motia", "on", ">first", "~*", "&*", "+@all")
        passwords = ["first"]

        async def credentials() -> tuple[str | None, str]:
            if not passwords:
                raise LookupError("the vault is sealed")
            return "motia", passwords[-1]

        async with StateManager(f"redis://127.0.0.1:{server.port}", credentials=credentials, deadline=5) as state:
            await state.set("users", "ann", 1)
            server.client.execute_command("ACL", "SETUSER", "motia", "resetpass", ">second")
            passwords.append("second")
            server.client.client_kill_filter(_type="normal", skipme=True)
            assert await state.get("users", "ann") == 1, "the new connection logs in with the new password"
            passwords.clear()
            server.client.client_kill_filter(_type="normal", skipme=True)
            with pytest.raises(StateUnavailable, match="the vault is sealed"):
                await state.get("users", "ann")
    finally:
        server.end()


async def test_documented_acl_rule_is_sufficient_and_minimal(tmp_path: Path) -> None:
    server = Process(tmp_path / "server", free_port(), "--save", "")
    try:
        server.start()
        rule = [word.replace("PASSWORD", "s3cret") for word in documented_rule()]
        server.client.execute_command("ACL", "SETUSER", "motia", *rule)
        url = f"redis://motia:s3cret@127.0.0.1:{server.port}/0"
        async with StateManager(url) as state:
            await make_all_calls(state)
            await copy_between(url, "motia:one", "motia:two")
            server.client.script_flush()
            if has_functions():
                server.client.execute_command("FUNCTION", "FLUSH")
            await state.set("users", "ann", 1)
            stats: Any = server.client.info("commandstats")
            assert ("cmdstat_evalsha" in stats) != has_functions(), "the permissions suffice for functions"
            found = await examine(state)
            lines = [*found.findings, *(line for node in found.servers for line in node.findings)]
            assert {line.check for line in lines if line.outcome in {"failed", "unknown"}} == {"lanes"}, "no worker runs any more"
        denied = {line["object"] for line in server.client.acl_log() if line["username"] == "motia"}
        assert denied <= {"client|setinfo", "client"}, "redis-py may not set its client name"
        with pytest.raises(StateUnavailable, match="denies this user the command or the key"):
            await StateManager(url, namespace="other").set("users", "ann", 1)
        with redis.Redis.from_url(url) as user:
            for command in (
                ("GET", "other"),
                ("FLUSHALL",),
                ("KEYS", "*"),
                ("SCRIPT", "FLUSH"),
                ("CLIENT", "LIST"),
                ("SHUTDOWN",),
            ):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    user.execute_command(*command)
    finally:
        server.end()


# -- other servers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PACKAGED)
async def test_all_calls_work_on_every_supported_server(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTIA_REDIS_SERVER", str(packaged(name)))
    server = Process(tmp_path / "server", free_port(), "--save", "")
    try:
        server.start()
        flushing = asyncio.create_task(_keep_flushing(server.client))
        async with StateManager(f"redis://127.0.0.1:{server.port}") as state:
            await make_all_calls(state)
        flushing.cancel()
    finally:
        server.end()


async def _keep_flushing(client: redis.Redis) -> None:
    """Flush the scripts and the functions of the server again and again."""
    while True:
        client.script_flush()
        with suppress(redis.ResponseError):  # Redis 6.2 has no functions
            client.execute_command("FUNCTION", "FLUSH")
        await asyncio.sleep(0.005)


@pytest.fixture
def fake_server() -> Iterator[str]:
    """Give the URL of a fakeredis server, which serves a loopback port from a thread."""
    server = fakeredis.TcpFakeServer(("127.0.0.1", 0), server_type="redis")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"redis://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


async def test_state_calls_work_on_fakeredis(fake_server: str) -> None:
    """Users test their state calls on fakeredis, without a server of Redis."""
    async with StateManager(fake_server) as state:
        await state.set("users", "ann", {"n": 1, "tags": []})
        assert await state.update("users", "ann", INCREMENT) == {"n": 2, "tags": []}
        with pytest.raises(UpdateFailed):
            await state.update("users", "ann", [*INCREMENT, {"op": "test", "path": "/n", "value": 0}])
        entry: Any = await state.entry("users", "ann")
        await state.set("users", "ann", {"n": 5}, if_revision=entry.revision)
        with pytest.raises(RevisionConflict):
            await state.set("users", "ann", 1, if_revision=entry.revision)
        assert await state.list("users") == [{"n": 5}]
        assert await state.list_groups() == ["users"]
        assert await state.delete("users", "ann") == {"n": 5}
        await state.set("users", "bob", 1)
        await state.clear("users")
        assert await state.list_groups() == []
