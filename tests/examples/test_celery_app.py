"""examples/celery_app: tasks in forked processes of a Celery worker, and a step that starts tasks."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.programs import EXAMPLES, environment
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from motia_redis import StateManager
    from tests.support.programs import Program
    from tests.support.servers import RedisServer

pytest.importorskip("celery", reason="the extra `examples` is not installed")

SEND = """
from tasks import app, count
for number in range(100):
    count.delay(f"page{number % 4}")
app.close()
"""


@pytest.fixture
def broker(server: RedisServer, raw: redis.Redis) -> Iterator[dict[str, str]]:
    """Return the variable that names the broker: another database of the same Redis."""
    yield {"CELERY_BROKER_URL": f"redis+socket://{server.socket}?virtual_host=1"}
    raw.execute_command("SELECT", 1)
    raw.flushdb()
    raw.execute_command("SELECT", 0)


async def test_tasks_in_forked_processes_and_a_step_share_state(
    start: Callable[..., Program], broker: dict[str, str], variables: dict[str, str], state: StateManager
) -> None:
    celery = ["celery", "-A", "tasks", "worker", "--concurrency", "2", "--loglevel", "INFO"]
    with (
        start("celery_app", *celery, ready=" ready.", **broker) as worker,
        start("celery_app", "motia_redis", "worker", "steps", ready="worker ready", **broker) as steps,
    ):
        settings = environment(**variables, **broker)
        subprocess.run([sys.executable, "-c", SEND], cwd=EXAMPLES / "celery_app", env=settings, check=True, timeout=60)
        await state.set_many("orders", {str(number): {"status": "paid"} for number in range(20)})

        async def are_counted() -> bool:
            return sum(visits["count"] for visits in await state.list("visits")) == 100 and await state.count("mails") == 20

        await until(are_counted, "all tasks are done")
        assert [await state.get("visits", f"page{number}") for number in range(4)] == [{"count": 25}] * 4
        assert {mail["process"] for mail in await state.list("mails")} <= worker.processes() - {worker.popen.pid}
        assert steps.stop() == 0
        assert worker.stop() == 0
    assert len(worker.lines(r"visit \d+ of page\d")) == 100
    assert worker.lines("Traceback|ERROR|CRITICAL|DeprecationWarning.*fork") == []
