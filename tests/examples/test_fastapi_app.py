"""examples/fastapi_app: routes of FastAPI, mounted steps and embedded workers, under uvicorn."""

from __future__ import annotations

import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.waiting import DEADLINE, until, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

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
    assert app.lines("order (paid|shipped)") == [
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
        await state.close()
        assert app.stop() in (0, -15)
    assert app.lines("Traceback|WARNING|ERROR|CRITICAL|Task was destroyed") == []


def test_start_without_redis_fails_with_a_reason(start: Callable[..., Program], tmp_path: Any) -> None:
    url = f"unix://{tmp_path}/none.sock"
    with start("fastapi_app", "uvicorn", "main:app", "--port", "0", ready="Waiting", MOTIA_REDIS_URL=url) as app:
        assert app.popen.wait(DEADLINE) == 3
    assert app.lines(r"cannot reach Redis at unix:.*none\.sock")
    assert app.lines("Application startup failed")
