"""A forked child has a loop and connections of its own, and the parent notices nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from motia_redis.sync import StateManager
from tests.sync import programs

if TYPE_CHECKING:
    from tests.support.servers import RedisServer

_FORK = """
def in_child(work):
    "Run something in a forked child, which ends as a program does, and return its exit code."
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        work()
        sys.exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def printed(code: str, server: RedisServer, namespace: str) -> str:
    done = programs.run(_FORK + code, server.url, namespace)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_child_has_its_own_connections(server: RedisServer, namespace: str) -> None:
    code = """
import redis
client = redis.Redis.from_url(sys.argv[1])
def ids():
    return {c["id"] for c in client.client_list()}
state.set("a", "key", 1)
before = ids()
def work():
    assert state.get("a", "key") == 1
    state.set("a", "child", 2)
    print(len(redis.Redis.from_url(sys.argv[1]).client_list()) > len(before) + 1)
print(in_child(work), state.get("a", "child"), state.set("a", "key", 3))
print(before <= ids())
client.close()
"""
    assert printed(code, server, namespace) == "True\n0 2 3\nTrue\n"


def test_child_holds_no_connection_of_its_parent(server: RedisServer, namespace: str) -> None:
    """Redis would take a parent that has ended for alive."""
    code = """
import redis
client = redis.Redis.from_url(sys.argv[1])
others = {c["id"] for c in client.client_list()}  # its own, and those of other tests
state.set("a", "key", 1)
ours = {c["id"] for c in client.client_list()} - others
read, write = os.pipe()
def work():
    os.close(write)
    os.read(read, 1)  # until the parent has closed its own
pid = os.fork()
if pid == 0:
    work()
    os._exit(0)
os.close(read)
state.close()
deadline = time.monotonic() + 10
while ours & {c["id"] for c in client.client_list()} and time.monotonic() < deadline:
    time.sleep(0.01)
print(len(ours), len(ours & {c["id"] for c in client.client_list()}))
os.close(write)
os.waitpid(pid, 0)
client.close()
"""
    out = printed(code, server, namespace)
    assert out.split()[1] == "0", out


def test_children_of_many_forks_work_while_threads_of_the_parent_do(server: RedisServer, namespace: str) -> None:
    code = """
is_over = threading.Event()
counts = [0] * 4
def work(number):
    while not is_over.is_set():
        state.update("a", f"key{number}", [{"op": "increment", "path": "/n", "value": 1}])
        counts[number] += 1
threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
for thread in threads: thread.start()
def child():
    for _ in range(20):
        state.update("a", "children", [{"op": "increment", "path": "/n", "value": 1}])
        state.get("a", "key0")
print([in_child(child) for _ in range(10)])
is_over.set()
for thread in threads: thread.join(10)
print(state.get("a", "children"), all(state.get("a", f"key{n}") == {"n": counts[n]} for n in range(4)))
"""
    assert printed(code, server, namespace) == "[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]\n{'n': 200} True\n"


def test_watch_and_mirror_belong_to_the_parent(server: RedisServer, namespace: str) -> None:
    code = """
from motia_redis.errors import WatchMisused
def refused(call):
    try:
        call()
    except WatchMisused as error:
        return "fork" in str(error)
def child():
    print(refused(lambda: next(watch)), refused(lambda: flags["key"]), refused(lambda: watch.reached("1-1")), watch.age)
    watch.close()
    with state.watch("a", start="snapshot") as own:
        print(next(own).value)
state.set("a", "key", 1)
with state.watch("a") as watch, state.mirror("a") as flags:
    print(in_child(child))
    state.set("a", "key", 2)
    print(next(watch).value, flags["key"])
"""
    assert printed(code, server, namespace) == "True True True None\n1\n0\n2 2\n"


def test_multiprocessing_with_fork(server: RedisServer, namespace: str) -> None:
    code = """
import multiprocessing
def count(number):
    return state.update("a", "key", [{"op": "increment", "path": "/n", "value": 1}])["n"]
state.set("a", "other", 1)
with multiprocessing.get_context("fork").Pool(3) as pool:
    print(sorted(pool.map(count, range(30), chunksize=1)) == list(range(1, 31)))
    pool.close()
    pool.join()
print(state.get("a", "key"))
"""
    assert printed(code, server, namespace) == "True\n{'n': 30}\n"


def test_child_of_a_child_and_fork_before_the_first_use(server: RedisServer, namespace: str) -> None:
    code = """
def grandchild():
    state.set("a", "grandchild", 1)
def child():
    assert in_child(grandchild) == 0
    state.set("a", "child", 1)
    assert in_child(grandchild) == 0
print(in_child(child), in_child(child), state.keys("a"))
"""
    out = printed(code, server, namespace)
    assert out.startswith("0 0 ")
    assert "grandchild" in out


def test_child_that_does_not_use_the_manager_ends(server: RedisServer, namespace: str) -> None:
    code = """
state.set("a", "key", 1)
print(in_child(lambda: None), state.get("a", "key"))
"""
    assert printed(code, server, namespace) == "0 1\n"


def test_embedded_server_is_shared_with_a_child(tmp_path: object, namespace: str) -> None:
    code = """
state.set("a", "key", 1)
def child():
    assert state.get("a", "key") == 1
    state.set("a", "key", 2)
print(in_child(child), state.get("a", "key"))
"""
    done = programs.run(_FORK + code, f"embedded://{tmp_path}/data", namespace)
    assert (done.stdout, done.stderr) == ("0 2\n", "")


@pytest.mark.parametrize("attribute", ["url", "namespace", "limits"])
def test_settings_of_a_manager_stay_in_the_child(attribute: str, server: RedisServer, namespace: str) -> None:
    state = StateManager(server.url, namespace=namespace)
    before = getattr(state, attribute)
    state._renew()  # as a forked child does
    assert getattr(state, attribute) == before
