"""examples/django_app: sync and async views under WSGI and ASGI, and a step that uses Django's database."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.programs import EXAMPLES, environment
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.programs import Program

pytest.importorskip("django", reason="the extra `examples` is not installed")

SERVERS = {
    "wsgi": (["gunicorn", "--bind", "127.0.0.1:0", "--workers", "2", "--preload", "shop.wsgi"], "Booting worker"),
    "asgi": (["uvicorn", "--port", "0", "--lifespan", "off", "shop.asgi:application"], "Uvicorn running"),
}


@pytest.mark.parametrize("kind", SERVERS)
def test_views_and_a_step_share_state_and_database(start: Callable[..., Program], kind: str, tmp_path: Path) -> None:
    command, ready = SERVERS[kind]
    pytest.importorskip(command[0])
    database = {"SHOP_DATABASE": str(tmp_path / "shop.sqlite3")}
    migrate = [sys.executable, "manage.py", "migrate"]
    subprocess.run(migrate, cwd=EXAMPLES / "django_app", env=environment(**database), check=True, capture_output=True, timeout=60)
    with (
        httpx.Client() as client,
        start("django_app", *command, ready=ready, **database) as app,
        start("django_app", "motia_redis", "worker", "steps", ready="worker ready", **database) as worker,
    ):
        for item in ("tea", "cup", "tea"):
            assert client.post(f"{app.url}/carts/ann/items/{item}").status_code == 200
        for _ in range(5):  # the async view, in several processes and event loops
            assert client.get(f"{app.url}/carts/ann").json() == {"items": {"tea": 2, "cup": 1}, "status": "open"}
        assert client.get(f"{app.url}/orders/ann").json() == {"orders": []}
        assert client.post(f"{app.url}/carts/ann/order").json()["status"] == "ordered"
        wait_until(lambda: client.get(f"{app.url}/orders/ann").json()["orders"] != [], "the step has created the order")
        assert client.get(f"{app.url}/orders/ann").json() == {"orders": [{"tea": 2, "cup": 1}]}
        assert len(app.lines(r"INFO \d+ shop\.views: ann orders")) == 1
        assert worker.stop() == 0
        assert app.stop() == (0 if kind == "wsgi" else -signal.SIGTERM)
    assert len(worker.lines("order created cart=ann")) == 1
    assert app.lines("Traceback|WARNING|ERROR|CRITICAL|Task was destroyed|ResourceWarning") == []
