"""Ways to a Redis: TLS, users with least privilege, and servers of other makes and versions."""

from __future__ import annotations

import asyncio
import re
import shutil
import ssl
import subprocess
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fakeredis
import pytest
import redis

from motia_redis import StateManager, queue
from motia_redis import state as state_trigger
from motia_redis._admin.dead_letters import DeadLetters
from motia_redis._admin.doctor import examine
from motia_redis._admin.status import read_status
from motia_redis._transport import endpoint
from motia_redis.errors import RevisionConflict, StateUnavailable, UpdateFailed
from tests.admin.test_dead_letters import Sick, buried, failing
from tests.support.clusters import Process, free_port
from tests.support.servers import PACKAGED, packaged
from tests.worker.test_worker import Recorder, record, working

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.servers import RedisServer

README = Path(__file__).parent.parent.parent / "README.md"
INCREMENT = [{"op": "increment", "path": "/n", "value": 1}]


async def use_everything(state: StateManager) -> None:
    """Go once through all that a namespace is used for."""
    await state.set("users", "ann", {"n": 1, "tags": [], "big": 9007199254740993})
    assert await state.update("users", "ann", INCREMENT) == {"n": 2, "tags": [], "big": 9007199254740993}
    assert await state.update("users", "ann", INCREMENT, idempotency_key="a") == {"n": 3, "tags": [], "big": 9007199254740993}
    assert (await state.update("users", "ann", INCREMENT, idempotency_key="a"))["n"] == 3
    with pytest.raises(UpdateFailed):
        await state.update("users", "ann", [*INCREMENT, {"op": "test", "path": "/n", "value": 0}])
    with pytest.raises(RevisionConflict):
        await state.set("users", "ann", 1, if_revision=None)
    assert await state.entry("users", "ann") is not None
    recorder, sick = Recorder(), Sick()
    steps = [record(recorder, state_trigger(scope="orders"), queue("mail")), failing(sick, "Sick", state_trigger(scope="orders"))]
    async with working(state, *steps):
        await state.set("orders", "one", 1)
        await state.enqueue("mail", "hello")
        await recorder.wait(2)
        letters = DeadLetters(state)
        found = await buried(letters, 1)
        sick.well = True
        await letters.retry("Sick", found[0].id)
        await sick.seen.wait(1)
        assert len((await read_status(state)).steps) == 2
    assert await state.list("orders") == [1]
    assert sorted(await state.list_groups()) == ["orders", "users"]
    await state.clear("orders")
    assert (await state.delete("users", "ann"))["n"] == 3
    assert await state.list_groups() == []


# -- TLS ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    make = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    make += [
        "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "-keyout",
        tmp_path / "key.pem",
        "-out",
        tmp_path / "cert.pem",
    ]
    subprocess.run(make, check=True, capture_output=True)
    return tmp_path


@asynccontextmanager
async def tls_in_front_of(server: RedisServer, certificates: Path) -> AsyncIterator[int]:
    """Accept TLS on a port and pass everything on to the server: the servers that packages carry are built without TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    tasks = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, to = await asyncio.open_unix_connection(str(server.socket))
        for task in (asyncio.create_task(copy(reader, to)), asyncio.create_task(copy(behind, writer))):
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    front = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield front.sockets[0].getsockname()[1]
    finally:
        front.close()
        await asyncio.gather(*tasks)


async def test_tls(server: RedisServer, namespace: str, certificates: Path) -> None:
    async with tls_in_front_of(server, certificates) as port:
        url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificates / 'cert.pem'}"
        async with StateManager(url, namespace=namespace) as state:
            await use_everything(state)
        with pytest.raises(StateUnavailable, match="certificate verify failed"):
            await StateManager(f"rediss://127.0.0.1:{port}/0").connect()


# -- users --------------------------------------------------------------------------------------------------------------------


def documented_rule() -> list[str]:
    """Return the words of the ACL rule in the README."""
    match = re.search(r"ACL SETUSER motia (.*?)```", README.read_text(), re.DOTALL)
    assert match, "the README documents a rule"
    return match[1].replace("\\\n", " ").split()


async def test_exactly_the_documented_rights_are_enough(tmp_path: Path) -> None:
    server = Process(tmp_path / "server", free_port(), "--save", "")
    try:
        server.start()
        rule = [word.replace("PASSWORD", "s3cret") for word in documented_rule()]
        server.client.execute_command("ACL", "SETUSER", "motia", *rule)
        url = f"redis://motia:s3cret@127.0.0.1:{server.port}/0"
        async with StateManager(url) as state:
            await use_everything(state)
            server.client.script_flush()
            await state.set("users", "ann", 1)
            assert not [line for node in await examine(state) for line in node.findings if line.outcome == "failed"]
        denied = {line["object"] for line in server.client.acl_log() if line["username"] == "motia"}
        assert denied <= {"client|setinfo", "client"}, "redis-py tells its name, where it may"
        with pytest.raises(StateUnavailable, match="does not let this user do that"):
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
async def test_servers_of_other_kinds_and_versions(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTIA_REDIS_SERVER", str(packaged(name)))
    server = Process(tmp_path / "server", free_port(), "--save", "")
    try:
        server.start()
        flushing = asyncio.create_task(_keep_flushing(server.client))
        async with StateManager(f"redis://127.0.0.1:{server.port}") as state:
            await use_everything(state)
        flushing.cancel()
    finally:
        server.end()


async def _keep_flushing(client: redis.Redis) -> None:
    """Make the server forget its scripts again and again, in the middle of everything."""
    while True:
        client.script_flush()
        await asyncio.sleep(0.005)


async def test_state_works_on_fakeredis(monkeypatch: pytest.MonkeyPatch) -> None:
    """For users' own tests without a server: state, without triggers."""
    fake = fakeredis.FakeServer()
    monkeypatch.setattr(endpoint, "_connect", lambda *_: fakeredis.FakeAsyncRedis(server=fake))
    async with StateManager("redis://fake") as state:
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
