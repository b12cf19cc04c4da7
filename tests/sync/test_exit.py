"""Programs end by themselves, at once and without a word, whatever still runs in the loop."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.sync import programs

if TYPE_CHECKING:
    import redis

    from tests.support.servers import RedisServer

PROGRAMS = {
    "a call": "print(state.set('a', 'key', 1))",
    "an import alone": "print(1)",
    "a closed manager": "state.set('a', 'key', 1); state.close(); print(1)",
    "a watch that is open": "watch = state.watch('a').__enter__(); state.set('a', 'key', 1); print(next(watch).value)",
    "a mirror that is open": "state.set('a', 'key', 1); flags = state.mirror('a').__enter__(); print(flags['key'])",
    "a scan that was left": "state.set_many('a', {'x': 1, 'y': 1}); pairs = state.scan('a'); print(next(pairs)[1])",
    "an atexit function that calls after the end": """
import atexit, motia_redis._sync.loop_thread as loop_thread
state.set('a', 'key', 1)
atexit.unregister(loop_thread._exit)
atexit.register(lambda: print(state.get('a', 'key')))
atexit.register(loop_thread._exit)
""",
    "an error": "state.set('a', 'key', 1); print(1); sys.exit(0)",
    "a daemon thread that waits": """
state.set('a', 'key', 1)
watch = state.watch('a').__enter__()
threading.Thread(target=lambda: list(watch), daemon=True).start()
time.sleep(0.1)
print(1)
""",
    "daemon threads that call": """
state.set('a', 'key', 1)
def work():
    while True:
        state.get('a', 'key')
for _ in range(20):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.2)
print(1)
""",
    "many threads": """
def work():
    for _ in range(20):
        state.set('a', 'key', 1)
for _ in range(50):
    threading.Thread(target=work).start()
print(1)
""",
    "an atexit function that calls": """
import atexit
state.set('a', 'key', 1)
atexit.register(lambda: print(state.get('a', 'key')))
""",
    "a sweeper": "state = StateManager(sys.argv[1], namespace=sys.argv[2], sweep=True); state.set('a', 'key', 1); print(1)",
    "sync and async managers": """
import asyncio, motia_redis
async def main():
    async with motia_redis.StateManager(sys.argv[1], namespace=sys.argv[2]) as other:
        await asyncio.to_thread(state.set, 'a', 'key', 1)
        print(await other.get('a', 'key'))
asyncio.run(main())
""",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_ends_by_itself(name: str, server: RedisServer, namespace: str, raw: redis.Redis) -> None:
    others = clients(raw)  # such as those of the loop thread of this process, which earlier tests may have started
    begun = time.monotonic()
    done = programs.run(PROGRAMS[name], server.url, namespace)
    assert (done.stdout, done.stderr, done.returncode) == ("1\n", "", 0)
    assert time.monotonic() - begun < 10
    assert clients(raw) <= others


def clients(raw: redis.Redis) -> set[str]:
    """Return the connections of the server."""
    return {client["id"] for client in raw.client_list()}


def test_program_ends_while_redis_does_not_answer(server: RedisServer, namespace: str, raw: redis.Redis) -> None:
    code = """
state.set('a', 'key', 1)
import redis
with redis.Redis.from_url(sys.argv[1]) as client:
    client.execute_command("CLIENT", "PAUSE", "3000", "WRITE")
threading.Thread(target=lambda: state.set('a', 'key', 2), daemon=True).start()
time.sleep(0.1)
print(1)
"""
    done = programs.run(code, server.url, namespace)
    raw.execute_command("CLIENT", "UNPAUSE")
    assert (done.stdout, done.stderr, done.returncode) == ("1\n", "", 0)


def test_embedded_server_ends_with_the_program(tmp_path: object, namespace: str) -> None:
    done = programs.run("print(state.set('a', 'key', 1))", f"embedded://{tmp_path}/data", namespace)
    assert (done.stdout, done.stderr, done.returncode) == ("1\n", "", 0)
