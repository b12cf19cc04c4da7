"""Lifetime of the embedded server: shared by processes, ended after the last user, restarted after a crash."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from contextlib import ExitStack

import pytest

from motia_redis import StateManager
from motia_redis._transport import embedded
from motia_redis._transport.embedded import EmbeddedServer
from motia_redis.errors import StateUnavailable
from tests.support.embedded import (
    FORKING_USER,
    PROMPTLY,
    USER,
    client,
    eventually,
    has_ended,
    needs_proc,
    processes_of,
    server_pid,
    status,
    url_of,
    user,
)
from tests.support.waiting import until

pytestmark = needs_proc


def test_processes_share_one_server(directory, join):
    server = join()
    with user(directory) as other, client(server.url) as connection:
        assert url_of(other) == server.url
        assert server_pid(server.url) == connection.info("server")["process_id"]


def test_ten_concurrent_joins_start_one_server(directory):
    with ExitStack() as stack:
        users = [stack.enter_context(user(directory)) for _ in range(10)]
        urls = [url_of(process) for process in users]
        assert len({server_pid(url) for url in urls}) == 1
        assert len(processes_of(directory)) == 12  # ten users, the keeper and the server


def test_data_survives_leave_and_join(directory, join):
    first = join()
    with client(first.url) as connection:
        connection.set("name", "value")
    first.leave()
    assert eventually(lambda: not processes_of(directory))
    with client(join().url) as connection:
        assert connection.get("name") == "value"


async def test_users_of_a_folder_that_is_deleted_get_one_new_server(directory, caplog):
    url = f"embedded://{directory}"
    async with StateManager(url, namespace="first") as state:
        await state.set("users", "ann", 1)
        before = server_pid(f"unix://{directory / 'redis.sock'}")
        shutil.rmtree(directory)
        async with StateManager(url, namespace="first") as other:  # may be earlier at the path than the old server's end
            await other.set("users", "bob", 2)

            async def is_shared() -> bool:
                return await state.get("users", "bob") == 2

            await until(is_shared, "both use the server of the new folder")
            await state.set("users", "ann", 3)
            assert await other.get("users", "ann") == 3
            assert eventually(lambda: has_ended(before))
    assert "was deleted while it was in use" in caplog.text
    assert eventually(lambda: not processes_of(directory))


def test_join_after_the_last_leave_never_returns_an_ending_server(join):
    for number in range(30):
        server = join()
        with client(server.url) as connection:
            assert connection.incr("count") == number + 1
        server.leave()
        time.sleep(0.002 * (number % 15))  # picks the stage of the old server's end; it waits for nothing


def test_server_ends_after_the_last_leave(directory, join):
    one, two = join(), join()
    pid = server_pid(one.url)
    keeper = status(pid)[1]
    one.leave()
    one.leave()  # must not release the handle `two`
    assert not eventually(lambda: has_ended(pid), within=0.3)
    two.leave()
    assert eventually(lambda: has_ended(pid) and has_ended(keeper))
    assert not (directory / "redis.sock").exists()


def test_server_ends_after_its_last_handle_is_garbage_collected(directory):
    server = EmbeddedServer.join(directory)
    pid = server_pid(server.url)
    del server
    assert eventually(lambda: has_ended(pid))


def test_server_ends_when_its_only_user_is_killed(directory):
    with user(directory) as only:
        pid = server_pid(url_of(only))
        only.kill()
        assert eventually(lambda: has_ended(pid) and not (directory / "redis.sock").exists())


def test_server_keeps_running_when_one_of_two_users_is_killed(directory):
    with user(directory) as starter, user(directory) as other:
        pid = server_pid(url_of(starter))
        url = url_of(other)
        starter.kill()
        starter.wait()
        assert not eventually(lambda: has_ended(pid), within=0.3)
        assert server_pid(url) == pid


def test_forked_child_keeps_the_server_running_after_its_parent_left(directory):
    with user(directory, FORKING_USER) as parent:
        pid = server_pid(url_of(parent))
        assert not eventually(lambda: has_ended(pid), within=0.3)  # the parent has left, the child has not
        parent.communicate("")  # both processes end at the end of their input
        assert eventually(lambda: has_ended(pid))


def test_server_and_keeper_have_their_own_session_and_process_group(directory, join):
    pid = server_pid(join().url)
    for process in (pid, status(pid)[1]):
        assert os.getsid(process) != os.getsid(0)
        assert os.getpgid(process) != os.getpgid(0)


def test_join_after_a_crash_starts_a_server_with_the_data(join):
    first = join()
    with client(first.url) as connection:
        connection.set("name", "value")
    pid = server_pid(first.url)
    keeper = status(pid)[1]
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: has_ended(pid))
    second = join()  # at once, while the keeper may still be ending
    assert second.url == first.url
    assert server_pid(second.url) != pid
    assert eventually(lambda: has_ended(keeper))
    with client(first.url) as connection:
        assert connection.get("name") == "value"
    second.leave()
    assert server_pid(first.url)  # the handle from before the crash keeps the new server running


def test_crashed_server_leaves_no_process_and_no_socket(directory, join):
    pid = server_pid(join().url)
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not processes_of(directory) and not (directory / "redis.sock").exists())


@pytest.mark.skipif(sys.platform != "linux", reason="needs the parent death signal")
def test_server_ends_when_its_keeper_is_killed(directory, join):
    pid = server_pid(join().url)
    os.kill(status(pid)[1], signal.SIGKILL)
    assert eventually(lambda: has_ended(pid))


def test_join_after_the_keeper_was_killed_starts_a_server_that_keeps_running(join):
    server = join()
    with client(server.url) as connection:
        connection.set("name", "value")
    for _ in range(5):
        pid = server_pid(server.url)
        keeper = status(pid)[1]
        os.kill(keeper, signal.SIGKILL)
        assert eventually(lambda keeper=keeper: has_ended(keeper))
        server = join()  # at once, while the server may still be ending
        assert server_pid(server.url) != pid
        with client(server.url) as connection:
            assert connection.get("name") == "value"
    assert not eventually(lambda: has_ended(server_pid(server.url)), within=0.3)


def test_two_servers_never_write_one_aof(directory, join):
    pid = server_pid(join().url)
    keeper = status(pid)[1]
    os.kill(pid, signal.SIGSTOP)  # the server stays alive but cannot end
    try:
        os.kill(keeper, signal.SIGKILL)
        assert eventually(lambda: has_ended(keeper))
        with pytest.raises(StateUnavailable, match="the previous server has not ended"):
            join(start_timeout=0.5)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert server_pid(join().url) != pid


def test_sigterm_to_the_keeper_shuts_the_server_down_cleanly(directory, join):
    pid = server_pid(join().url)
    os.kill(status(pid)[1], signal.SIGTERM)
    assert eventually(lambda: has_ended(pid) and not (directory / "redis.sock").exists())
    assert "bye bye" in (directory / "redis.log").read_text()


def test_keeper_does_not_inherit_blocked_and_ignored_signals(directory):
    program = "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
    program += "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n" + USER
    with user(directory, program) as process:
        pid = server_pid(url_of(process))
        process.kill()
        assert eventually(lambda: has_ended(pid))


def test_blocked_server_is_killed_after_the_last_leave(directory, join):
    server = join()
    pid = server_pid(server.url)
    os.kill(pid, signal.SIGSTOP)
    server.leave()
    with pytest.raises(StateUnavailable, match=r"still starting or ending|has not answered"):
        join(start_timeout=0.1)
    assert eventually(lambda: has_ended(pid), within=embedded.STOP_SECONDS + PROMPTLY)


def test_users_killed_at_any_stage_neither_stop_nor_leave_a_server(directory):
    """One of two users is killed at each stage, also while the server starts or ends; the other one is served."""
    for round_number in range(12):
        with user(directory) as victim, user(directory) as survivor:
            time.sleep(0.02 * round_number)  # picks the stage; it waits for nothing
            victim.kill()
            url = url_of(survivor)
            with client(url) as connection:
                assert connection.incr("rounds") == round_number + 1
