"""examples/fastapi_app: routes of FastAPI, mounted steps and embedded workers, under uvicorn."""

from __future__ import annotations

import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.servers import RedisServer
from tests.support.waiting import DEADLINE, until, until_holds, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from motia_redis import StateManager
    from tests.support.programs import Program

pytest.importorskip("fastapi", reason="the extra `examples` is not installed")
STARTED = "Application startup complete"


def test_routes_mounted_steps_and_worker_share_state(start: Callable[..., Program]) -> None:
    with start("fastapi_app", "uvicorn", "main:app", "--port", "0", ready="Uvicorn running") as app:
        assert httpx.get(f"{app.url}/orders/7").status_code == 404
        assert httpx.put(f"{app.url}/orders/7", json={"total": 20}).json() == {"status": "new", "total": 20}
        paid = httpx.post(f"{app.url}/steps/orders/7/pay")
        assert paid.json() == {"status": "paid", "total": 20}
        assert len(paid.headers["x-trace-id"]) == 32
        assert httpx.get(f"{app.url}/orders/7").json()["status"] == "paid"
        assert httpx.get(f"{app.url}/steps/nowhere").json() == {"error": "not found"}
        wait_until(lambda: bool(app.lines("order shipped")), "the worker has shipped the order")
        assert app.stop() == -signal.SIGTERM  # as uvicorn ends when its lifespan has ended
    pid = app.popen.pid
    assert sorted(app.lines("order (paid|shipped)")) == [  # the worker may be faster than the rest of the handler that pays
        f"INFO {pid} motia_redis.step: order paid order=7",
        f"INFO {pid} motia_redis.step: order shipped order=7",
    ]
    assert app.lines("Traceback|WARNING|ERROR|CRITICAL|Task was destroyed") == []


async def test_two_uvicorn_workers_share_the_events(start: Callable[..., Program], state: StateManager) -> None:
    orders = [str(number) for number in range(60)]
    command = ["uvicorn", "main:app", "--port", "0", "--workers", "2"]
    with start("fastapi_app", *command, ready="Uvicorn running") as app:
        wait_until(lambda: len(app.lines(STARTED)) == 2, "both processes are ready")
        processes: set[int] = set()
        for batch in range(20):  # until both have lanes
            async with httpx.AsyncClient(base_url=app.url) as client:
                for order in orders:
                    assert (await client.put(f"/orders/{batch}-{order}", json={"status": "paid"})).status_code == 201

            async def are_shipped(count: int = (batch + 1) * len(orders)) -> bool:
                return await state.count("shipments") == count

            await until(are_shipped, "all orders are shipped")
            shipments: list[Any] = await state.list("shipments")
            processes = {shipment["process"] for shipment in shipments}
            if len(processes) == 2:
                break
        assert Counter(shipment["times"] for shipment in shipments) == {1: len(shipments)}
        assert len(processes) == 2
        assert processes < app.processes()
        assert app.stop() in (0, -15)
    assert app.lines("Traceback|WARNING|ERROR|CRITICAL|Task was destroyed") == []


HANGING = """
import asyncio
from contextlib import asynccontextmanager
from fastapi import FastAPI
from motia_redis import Application, StateManager, Worker, queue, step

state = StateManager()

@step({"name": "Hang", "triggers": [queue("work")]})
async def hang(input, ctx):
    print("begun", flush=True)
    await asyncio.Event().wait()

@asynccontextmanager
async def lifespan(app):
    async with state, Worker(Application((hang,)), state, grace=0.5):
        yield

app = FastAPI(lifespan=lifespan)
"""


async def test_sigterm_ends_a_process_whose_handler_hangs(
    start: Callable[..., Program], state: StateManager, tmp_path: Path
) -> None:
    (tmp_path / "hanging.py").write_text(HANGING)
    command = ["uvicorn", "--app-dir", str(tmp_path), "hanging:app", "--port", "0"]
    with start("fastapi_app", *command, ready="Uvicorn running") as app:
        await state.enqueue("work", {})
        await until_holds(lambda: "begun" in app.output, "the handler runs")
        began = time.monotonic()
        assert app.stop() == -signal.SIGTERM
        assert time.monotonic() - began < 5
    assert app.lines(r"grace time of 0\.5 s is over: ending without step Hang \(topic work\)")


def test_redis_that_goes_away_is_a_503_and_does_not_delay_the_end(start: Callable[..., Program], tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    with RedisServer(tmp_path / "redis", "--appendonly", "yes") as server:
        address = {"MOTIA_REDIS_URL": server.url}
        with start("fastapi_app", "uvicorn", "main:app", "--port", "0", ready="Uvicorn running", **address) as app:
            assert httpx.put(f"{app.url}/orders/7", json={}).status_code == 201
            server.kill()
            with ThreadPoolExecutor() as threads:  # both take the 10 s for which calls are repeated
                urls = [f"{app.url}/orders/7", f"{app.url}/steps/orders/7/pay"]
                methods = ["GET", "POST"]
                answers = list(threads.map(lambda method, url: httpx.request(method, url, timeout=30), methods, urls))
            assert [answer.status_code for answer in answers] == [503, 503]
            assert [answer.headers["retry-after"] for answer in answers] == ["5", "5"]
            began = time.monotonic()
            assert app.stop() == -signal.SIGTERM
            assert time.monotonic() - began < 10
    assert app.lines("Traceback|CRITICAL") == []


def test_start_without_redis_fails_with_a_reason(start: Callable[..., Program], tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/none.sock"
    with start("fastapi_app", "uvicorn", "main:app", "--port", "0", ready="Waiting", MOTIA_REDIS_URL=url) as app:
        assert app.popen.wait(DEADLINE) == 3
    assert app.lines(r"cannot reach Redis at unix:.*none\.sock")
    assert app.lines("Application startup failed")
