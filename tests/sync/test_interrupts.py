"""A thread that is interrupted while it waits cancels its call, and others go on. In processes of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.sync import programs

if TYPE_CHECKING:
    from tests.support.servers import RedisServer

_INTERRUPT = """
def interrupt():
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGINT)

def expect(call):
    threading.Thread(target=interrupt).start()
    begun = time.monotonic()
    try:
        call()
    except KeyboardInterrupt as error:
        return time.monotonic() - begun, getattr(error, "__notes__", [])
    raise AssertionError("no KeyboardInterrupt")
"""


def printed(code: str, server: RedisServer, namespace: str) -> str:
    done = programs.run(_INTERRUPT + code, server.url, namespace)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_interrupted_call_is_cancelled_and_says_what_may_have_happened(server: RedisServer, namespace: str) -> None:
    code = """
import redis
state.set("a", "key", 1)
with redis.Redis.from_url(sys.argv[1]) as client:
    client.execute_command("CLIENT", "PAUSE", "2000", "WRITE")
    seconds, notes = expect(lambda: state.set("a", "key", 2))
    client.execute_command("CLIENT", "UNPAUSE")
print(seconds < 1.5, notes)
print(state.get("a", "key") in (1, 2), state.set("a", "key", 3))
"""
    note = "set was cancelled: if it makes changes, they may have been made, or may be still"
    assert printed(code, server, namespace) == f"True ['{note}']\nTrue 3\n"


def test_interrupted_watch_can_be_read_further(server: RedisServer, namespace: str) -> None:
    code = """
with state.watch("a") as watch:
    expect(lambda: next(watch))
    state.set("a", "key", 7)
    print(next(watch).value)
"""
    assert printed(code, server, namespace) == "7\n"


def test_interrupt_of_one_thread_leaves_the_calls_of_others_alone(server: RedisServer, namespace: str) -> None:
    code = """
results = []
is_over = threading.Event()
def work(number):
    while not is_over.is_set():
        state.update("a", f"key{number}", [{"op": "increment", "path": "/n", "value": 1}])
    results.append(number)
threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
for thread in threads: thread.start()
for _ in range(3):
    def endless():
        while True:
            state.get("a", "key")
    expect(endless)
is_over.set()
for thread in threads: thread.join(10)
print(sorted(results), state.set("a", "key", 1))
"""
    assert printed(code, server, namespace) == "[0, 1, 2, 3, 4, 5, 6, 7] 1\n"


@pytest.mark.parametrize("when", ["function", "wait"])
def test_interrupted_modify_changes_nothing(server: RedisServer, namespace: str, when: str) -> None:
    code = f"""
def function(value):
    if {when == "function"}:
        time.sleep(5)
    else:
        os.kill(os.getpid(), signal.SIGINT)
    return 1
seconds, _ = expect(lambda: state.modify("a", "key", function))
print(seconds < 3, state.get("a", "key"), state.set("a", "key", 2))
time.sleep(0.3) if {when == "wait"} else None
"""
    if when == "wait":
        code = (
            code.replace("expect(lambda", "now(lambda")
            .replace("seconds, _", "def now(call):\n    try: call()\n    except KeyboardInterrupt: return 0, 0\nseconds, _")
            .replace("time.sleep(0.3) if True else None", "")
        )
    assert printed(code, server, namespace) == "True None 2\n"
