"""examples/flask_app: the sync manager in Flask's server and in gunicorn's forked workers, and steps beside them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.programs import Program

pytest.importorskip("flask", reason="the extra `examples` is not installed")

SERVERS = {
    "flask": (["flask", "run", "--port", "0"], "Running on"),
    "gunicorn": (
        ["gunicorn", "--bind", "127.0.0.1:0", "--workers", "2", "--threads", "4", "--preload", "app:app"],
        "Booting worker",
    ),
}


@pytest.mark.parametrize("server_name", SERVERS)
def test_requests_count_and_a_worker_reacts(start: Callable[..., Program], server_name: str) -> None:
    command, ready = SERVERS[server_name]
    if server_name == "gunicorn":
        pytest.importorskip("gunicorn")
    with (
        httpx.Client() as client,
        start("flask_app", *command, ready=ready) as app,
        start("flask_app", "motia_redis", "worker", "steps", ready="worker ready") as worker,
    ):
        assert client.get(f"{app.url}/visits/home").json() == {"count": 0}
        with ThreadPoolExecutor(8) as threads:
            counts = list(threads.map(lambda _: client.post(f"{app.url}/visits/home").json()["count"], range(40)))
        assert sorted(counts) == list(range(1, 41))
        wait_until(lambda: client.get(f"{app.url}/prizes/home").json() == {"visit": 40}, "the worker has given the last prize")
        assert len(app.lines(r"INFO \d+ app: visit \d+ of home")) == 40
        if server_name == "gunicorn":
            assert len({line.split()[1] for line in app.lines("app: visit")} & {str(pid) for pid in app.processes()}) >= 1
        assert worker.stop() == 0
        assert app.stop() == (0 if server_name == "gunicorn" else -15)
    assert len(worker.lines("prize given page=home")) == 4
    assert app.lines("Traceback|WARNING (?!: This is a dev)|ERROR|CRITICAL|DeprecationWarning") == []
