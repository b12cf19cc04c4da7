"""Connections: what a URL may be, sessions of many loops, an embedded server that dies, and what Redis's refusals say."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import re
import signal
import socket
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from motia_redis import StateManager
from motia_redis._scripts import loader
from motia_redis._store.keyspace import Keyspace, Layout
from motia_redis._store.limits import Limits, Retention
from motia_redis._transport import embedded, endpoint, failures, refusals, urls
from motia_redis._transport.embedded import EmbeddedServer
from motia_redis.errors import CorruptValue, StateError, StateUnavailable
from tests.support.servers import RedisServer
from tests.support.waiting import until, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

INCREMENT = [{"op": "increment", "path": "/n", "value": 1}]
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def spare(tmp_path: Path) -> Iterator[Callable[..., tuple[RedisServer, int]]]:
    """Start a server of the test's own that listens on a TCP port too."""
    started = []

    def start(*options: str) -> tuple[RedisServer, int]:
        port = free_port()
        directory = tmp_path / f"server{len(started)}"
        directory.mkdir()
        server = RedisServer(directory, "--port", str(port), "--bind", "127.0.0.1", *options)
        server.__enter__()
        started.append(server)
        return server, port

    yield start
    for server in started:
        server.__exit__()


# -- URLs -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://[bad", "malformed"),
        ("redis://:secret@[bad", "malformed"),
        ("redis://host:port/0", "malformed"),
        ("redis://host:99999/0", "malformed"),
        ("redis://host:0/0", "malformed"),
        ("redis://host/0#secret", "malformed"),
        ("redis://:12/secret@host", "database must be a number"),
        ("redis://:12?secret=x@host", "malformed"),
        ("redis://user:secret#x@host/0", "malformed"),
        ("redis://host?foo=secret", "unknown option 'foo'"),
        ("redis://host?foo", "malformed"),
        ("redis://host?decode_responses=true", "unknown option 'decode_responses'"),
        ("redis://host?protocol=3", "unknown option 'protocol'"),
        ("redis://host?socket_timeout=0.2", "unknown option 'socket_timeout'"),
        ("redis://host?password=secret", "password must stand before the host"),
        ("unix:///tmp/x.sock?password=secret", "password must stand before the host"),
        ("redis://host?ssl_cert_reqs=none", "needs rediss://"),
        ("rediss://host?ssl_cert_reqs=sometimes", "ssl_cert_reqs has a value"),
        ("rediss://host?ssl_check_hostname=perhaps", "ssl_check_hostname has a value"),
        ("redis://host?db=one", "db has a value"),
        ("redis://host?db=", "db has a value"),
        ("redis://host/1?db=2", "db is given twice"),
        ("redis://host/notadb", "database must be a number"),
        ("redis://host/0/1", "database must be a number"),
        ("redis://host/-1", "database must be a number"),
        ("unix://", "must be absolute"),
        ("unix://run/redis.sock", "must be absolute"),
        ("redis://ho\nst", "control character"),
        ("embedded://a\x00b", "control character"),
        ("user:secret@host:6379", "none of the known schemes"),
        ("http://user:secret@host", "none of the known schemes"),
        (b"redis://host", "must be a string"),
        (Path("/tmp"), "must be a string"),
    ],
)
async def test_a_url_that_cannot_be_used_is_one_clear_error(url: Any, reason: str) -> None:
    with pytest.raises(StateError, match=reason) as error:
        await StateManager(url).connect()
    assert "secret" not in str(error.value)
    assert type(error.value) is StateError
    assert error.value.__cause__ is None


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://host",
        "redis://user:p%2Fw@host:1/5",
        "redis://[::1]:6379/",
        "redis://host?db=3&client_name=orders",
        "rediss://host?ssl_cert_reqs=none&ssl_ca_certs=/etc/ca.pem&ssl_check_hostname=false",
        "unix:///tmp/a@b.sock?db=1",
        "unix://user:pw@/tmp/x.sock",
        "embedded://",
        "embedded:///srv/c#?",
    ],
)
async def test_a_good_url_is_taken(url: str) -> None:
    place = endpoint.Endpoint(url)
    if not url.startswith("embedded://"):
        await (await place.open_router(max_connections=1, reply_timeout=1.0)).aclose()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:secret@host:1/0?db=1", "redis://host:1/0"),
        ("redis://host?password=secret", "redis://host"),
        ("redis://host?password=sec@ret", "redis://..."),
        ("redis://:sec?ret@host", "redis://..."),
        ("redis://:sec/ret@host", "redis://host"),
        ("redis://:sec@ret@host", "redis://host"),
        ("unix://user:secret@/tmp/x", "unix:///tmp/x"),
        ("unix:///tmp/a@b?db=1", "unix:///tmp/a@b"),
        ("redis://[bad", "redis://[bad"),
        ("secret@host", "host"),
        ("me:secret://x@host", "host"),
        ("embedded://a@b", "embedded://a@b"),
    ],
)
def test_what_is_shown_of_a_url_has_no_secret(url: str, shown: str) -> None:
    assert urls.redact(url) == shown


async def test_embedded_with_nothing_behind_it_is_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with StateManager("embedded://") as state:
        await state.set("users", "ann", 1)
    assert [path.name for path in tmp_path.iterdir()] == [".motia"]


async def test_a_home_that_does_not_exist_is_a_clear_error() -> None:
    with pytest.raises(StateError, match="nosuchuser"):
        await StateManager("embedded://~nosuchuser/x").connect()


# -- sessions -------------------------------------------------------------------------------------------------------------


def sessions(manager: StateManager) -> int:
    return len(manager._sessions._slots)


def test_a_loop_that_ended_leaves_no_session(server: RedisServer, namespace: str) -> None:
    manager = StateManager(server.url, namespace=namespace)
    loops = []

    async def visit() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await manager.update("counters", "visits", INCREMENT)

    for _ in range(20):
        asyncio.run(visit())
        assert sessions(manager) == 0
    gc.collect()
    assert [loop for loop in loops if loop() is not None] == []


@pytest.mark.filterwarnings("ignore:loop is closed:ResourceWarning")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # what the careless program gets, and should
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_was_closed_carelessly_is_forgotten(server: RedisServer, namespace: str) -> None:
    manager = StateManager(server.url, namespace=namespace)
    for _ in range(3):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(manager.set("users", "ann", 1))
        loop.close()
        assert sessions(manager) == 1
    asyncio.run(manager.close())
    assert sessions(manager) == 0
    gc.collect()


async def test_a_failed_opening_leaves_no_session() -> None:
    manager = StateManager("redis://127.0.0.1:1")
    results = await asyncio.gather(*(manager.get("users", "ann") for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [StateUnavailable] * 5
    assert sessions(manager) == 0


async def test_closing_while_others_open_harms_nobody(server: RedisServer, namespace: str) -> None:
    manager = StateManager(server.url, namespace=namespace)

    async def visit() -> None:
        await manager.connect()
        await manager.close()

    await asyncio.gather(*(visit() for _ in range(50)))
    await manager.close()
    assert sessions(manager) == 0


def test_a_manager_is_copied_by_pickle_without_its_connections(server: RedisServer, namespace: str) -> None:
    manager = StateManager(
        server.url, namespace=namespace, layout=Layout(2, 2), limits=Limits(value_bytes=1000), retention=Retention(7)
    )

    async def visit(one: StateManager) -> Any:
        return await one.update("counters", "visits", INCREMENT)

    async def both() -> None:
        await visit(manager)
        copy = pickle.loads(pickle.dumps(manager))
        assert await visit(copy) == {"n": 2}
        assert (copy.url, copy.namespace, copy.limits) == (manager.url, manager.namespace, manager.limits)
        assert (copy._sessions.layout, copy.retention) == (Layout(2, 2), Retention(7))
        await copy.close()

    asyncio.run(both())


# -- the embedded server --------------------------------------------------------------------------------------------------


def server_pid(directory: Path) -> int:
    with redis.Redis.from_url(f"unix://{directory}/redis.sock") as client:
        info: Any = client.info("server")
        return int(info["process_id"])


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@linux
def test_close_releases_the_embedded_server_after_any_number_of_loops(tmp_path: Path) -> None:
    manager = StateManager(f"embedded://{tmp_path}")

    async def visit() -> None:
        await manager.set("users", "ann", 1)

    for _ in range(3):
        asyncio.run(visit())
    pid = server_pid(tmp_path)

    async def end() -> None:
        await manager.set("users", "ann", 2)
        await manager.close()

    asyncio.run(end())
    wait_until(lambda: not is_alive(pid), "the server ends with its last user")


@linux
def test_close_leaves_the_server_to_the_other_loops(tmp_path: Path) -> None:
    manager = StateManager(f"embedded://{tmp_path}")
    opened, done = threading.Event(), threading.Event()

    async def other() -> None:
        await manager.set("users", "ann", 1)
        opened.set()
        await asyncio.to_thread(done.wait)
        assert await manager.get("users", "ann") == 1
        await manager.close()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(asyncio.run, other())
        try:
            assert opened.wait(20)
            asyncio.run(manager.close())
            assert manager._sessions._endpoint is not None
            assert manager._sessions._endpoint._server is not None
            pid = server_pid(tmp_path)
        finally:
            done.set()
        running.result()
    wait_until(lambda: not is_alive(pid), "the server ends with its last user")


def test_loops_in_eight_threads_join_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = StateManager(f"embedded://{tmp_path}")
    joins = []
    join = EmbeddedServer.join
    together = threading.Barrier(8)

    def counted(directory: Path) -> EmbeddedServer:
        joins.append(directory)
        return join(directory)

    monkeypatch.setattr(EmbeddedServer, "join", counted)

    async def visit() -> Any:
        together.wait()
        return await manager.update("counters", "visits", INCREMENT)

    with ThreadPoolExecutor(8) as pool:
        counts = sorted(result["n"] for result in pool.map(lambda _: asyncio.run(visit()), range(8)))
    assert counts == list(range(1, 9))
    assert len(joins) == 1
    asyncio.run(manager.close())


@linux
async def test_a_crashed_embedded_server_is_there_again_for_the_next_call(tmp_path: Path) -> None:
    async with StateManager(f"embedded://{tmp_path}") as state:
        for round_number in range(1, 4):
            assert await state.update("counters", "visits", INCREMENT) == {"n": round_number}
            pid = server_pid(tmp_path)
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: not is_alive(pid), "the server is dead")  # type: ignore[misc]
            failed = await asyncio.gather(*(state.get("counters", "visits") for _ in range(20)), return_exceptions=True)
            assert [error for error in failed if not isinstance(error, StateUnavailable | dict)] == []
            assert await state.get("counters", "visits") == {"n": round_number}
        pid = server_pid(tmp_path)
    wait_until(lambda: not is_alive(pid), "no handle is left over")


@linux
async def test_revive_starts_a_crashed_embedded_server(tmp_path: Path) -> None:
    async with StateManager(f"embedded://{tmp_path}") as state:
        await state.set("users", "ann", 1)
        pid = server_pid(tmp_path)
        await state.revive()
        assert server_pid(tmp_path) == pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid), "the server is dead")
        await asyncio.gather(*(state.revive() for _ in range(10)))
        assert server_pid(tmp_path) != pid
        router = await state.open_router()
        assert await router.execute("any", "PING")
        await router.aclose()


async def test_revive_does_nothing_for_other_urls(state: StateManager) -> None:
    await state.revive()
    await StateManager("redis://127.0.0.1:1").revive()


@linux
async def test_an_embedded_server_that_cannot_start_again_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with StateManager(f"embedded://{tmp_path}") as state:
        await state.set("users", "ann", 1)
        pid = server_pid(tmp_path)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid), "the server is dead")

        def missing(_: Path) -> Path:
            raise StateUnavailable("no program")

        with monkeypatch.context() as patched:
            patched.setattr(embedded, "find_server_for", missing)
            with pytest.raises(StateUnavailable, match="scope 'users' key 'ann': no program"):
                await state.get("users", "ann")
        assert await state.get("users", "ann") == 1


# -- foreign bytes --------------------------------------------------------------------------------------------------------


async def test_keys_that_are_no_text_are_listed_and_cleared(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    names = Keyspace(namespace, Layout())
    await state.set("users", "ann", 1)
    raw.hset(names.values(b"users"), b"\xff\xfe", "2")  # type: ignore[arg-type]
    assert sorted(await state.list("users")) == [1, 2]
    raw.hset(names.values(b"users"), b"\xff\xfe", "{broken")  # type: ignore[arg-type]
    with pytest.raises(CorruptValue, match="scope 'users' key '\ufffd\ufffd': the stored text is not JSON"):
        await state.list("users")
    await state.clear("users")
    assert await state.list("users") == []


async def test_a_scope_that_is_no_text_is_named(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    await state.set("users", "ann", 1)
    raw.sadd(Keyspace(namespace, Layout()).scopes(3), b"caf\xe9")
    with pytest.raises(CorruptValue, match=re.escape(r"b'caf\xe9' is not UTF-8")):
        await state.list_groups()


async def test_listing_does_no_work_per_name(state: StateManager, monkeypatch: pytest.MonkeyPatch) -> None:
    await state.set("users", "ann", 1)
    monkeypatch.setattr("motia_redis._store.manager.Subject", None)
    assert await state.list("users") == [1]


# -- what Redis refuses ---------------------------------------------------------------------------------------------------


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
        assert "does not accept the user or the password" in await refused(f"redis://:secret2@{address}", get)
        async with StateManager(f"redis://:secret@{address}", namespace="refusals") as state:
            await state.set("users", "ann", 1)
        limited = f"redis://limited:secret@{address}"
        async with StateManager(limited, namespace="refusals") as state:
            assert await state.get("users", "ann") == 1
        assert "does not let this user" in await refused(limited, lambda state: state.set("users", "ann", 2))
        assert "does not let this user" in await refused(f"redis://nokeys:secret@{address}", get)


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
    assert "holds another type under one of our keys" in await refused(server.url, lambda s: s.set("users", "ann", 1), namespace)


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
        assert "no answer in time" in await refused(f"redis://127.0.0.1:{port}", get)


async def test_a_redis_that_loads_its_data() -> None:
    async with answering(b"-LOADING Redis is loading the dataset in memory\r\n") as port:
        message = await refused(f"redis://127.0.0.1:{port}", lambda state: state.get("users", "ann"))
        assert "is loading its data: try again" in message


def test_a_password_that_redis_does_not_want() -> None:
    error = redis.AuthenticationError("AUTH <password> called without any password configured for the default user.")
    assert str(failures.to_unavailable("here", "redis://:secret@host", error)).startswith(
        "here: Redis at redis://host has no password, and the URL gives one"
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


# -- never twice, never torn ----------------------------------------------------------------------------------------------


class CuttingProxy:
    """Passes requests on to Redis; when told to, cuts the connection after it passed one on, in place of the answer."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.cut_at = b"\x00never"
        self.cuts = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        redis_reader, redis_writer = await asyncio.open_connection("127.0.0.1", self._to)
        try:
            while request := await reader.read(65536):
                redis_writer.write(request)
                reply = await redis_reader.read(65536)  # requests here are small and come one by one
                if self.cut_at in request:
                    self.cuts += 1
                    return
                writer.write(reply)
        finally:
            redis_writer.close()
            writer.close()


async def test_a_change_whose_answer_was_lost_is_not_sent_again_without_a_deadline(
    spare: Callable[..., tuple[RedisServer, int]],
) -> None:
    _server, port = spare()
    proxy = CuttingProxy(port)
    async with await asyncio.start_server(proxy.handle, "127.0.0.1", 0) as listening:
        address = listening.sockets[0].getsockname()[1]
        async with StateManager(f"redis://127.0.0.1:{address}", deadline=0) as state:
            for number in range(1, 4):
                await state.update("counters", "visits", INCREMENT)
                proxy.cut_at = b"EVALSHA"
                with pytest.raises(StateUnavailable, match="may have been applied") as told:
                    await state.update("counters", "visits", INCREMENT)
                assert told.value.maybe_applied
                proxy.cut_at = b"\x00never"
                assert proxy.cuts == number
                assert await state.get("counters", "visits") == {"n": 2 * number}


async def test_entry_reads_value_and_revision_at_one_moment(state: StateManager, raw: redis.Redis) -> None:
    await state.set("users", "ann", 1)
    await state.entry("users", "ann")
    with raw.monitor() as monitor:
        await state.entry("users", "ann")
        raw.echo("end")
        seen = []
        while (command := monitor.next_command())["command"] != "ECHO end":
            seen.append(command["command"].split()[0])
    assert [name for name in seen if name not in ("HELLO", "CLIENT")] == ["EVALSHA", "HGET", "HGET"]


@pytest.mark.usefixtures("every_change_looks")
async def test_messages_without_subscriber_do_not_pile_up(server: RedisServer, raw: redis.Redis, namespace: str) -> None:
    async with StateManager(server.url, namespace=namespace, deadline=0) as state:
        for number in range(2000):
            await state.enqueue("mail", number, key="ann")
    names = Keyspace(namespace, Layout())
    assert 100 <= raw.xlen(names.topic(b"mail", names.lane(b"ann"))) <= 200


async def test_many_calls_of_a_forgotten_script_run_once_each(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    router = await state.open_router()
    appending = loader.Script("return redis.call('RPUSH', KEYS[1], ARGV[1])")
    raw.script_flush()
    key = f"{namespace}:list".encode()
    calls: Any = [([key], [b"%d" % number]) for number in range(5)]
    assert await appending.many(router, calls) == [1, 2, 3, 4, 5]
    assert raw.lrange(key, 0, -1) == [b"0", b"1", b"2", b"3", b"4"]
    await router.aclose()
