"""Lifetime of the embedded server: shared by processes, ended after the last user, restarted after a crash."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import ExitStack

import pytest

from motia_redis._transport import embedded
from motia_redis._transport.embedded import EmbeddedServer
from motia_redis.errors import StateUnavailable
from tests.support.embedded import (
    FORKING_USER,
    PROMPTLY,
    USER,
    client,
    ended,
    eventually,
    needs_proc,
    processes_of,
    server_pid,
    status,
    url_of,
    user,
)

pytestmark = needs_proc


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
        with pytest.raises(StateUnavailable, match="the previous server has not ended"):
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


def test_no_server_is_lost_or_left_under_random_kills(directory):
    """Users come and are killed at every stage, also of starting and ending; whoever stays is served."""
    for round_number in range(12):
        with user(directory) as victim, user(directory) as survivor:
            time.sleep(0.02 * round_number)  # not a wait for anything: it picks the stage
            victim.kill()
            url = url_of(survivor)
            with client(url) as connection:
                assert connection.incr("rounds") == round_number + 1
