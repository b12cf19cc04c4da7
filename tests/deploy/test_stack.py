"""What compose.yaml starts works together: Valkey, HTTP, workers and Prometheus run with its arguments, without containers."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.applications import Command
from tests.support.deploying import DEPLOY, alerts, at_home, expressions, services
from tests.support.http import ask, port_of
from tests.support.prometheus import Prometheus
from tests.support.servers import RedisServer, find_packaged
from tests.support.waiting import DEADLINE, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[RedisServer]:
    """Valkey with the arguments of compose.yaml."""
    name, *options = services()["valkey"]["command"]
    assert name == "valkey-server"
    with RedisServer(tmp_path, *options, program=find_packaged("valkey-9.1")) as server:
        yield server


@pytest.mark.alone
def test_all_targets_are_up_the_alerts_are_silent_and_every_panel_shows_data(
    tmp_path: Path, valkey: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    Prometheus.program()
    with contextlib.ExitStack() as cleanup:
        processes: list[Command] = []
        for name in ("serve", "worker"):
            service = services()[name]
            for variable, value in service["environment"].items():
                monkeypatch.setenv(variable, value.replace("redis://valkey:6379/0", valkey.url))
            words = at_home(service["command"], DEPLOY / "app")
            processes += [cleanup.enter_context(Command(tmp_path, *words)) for _ in range(service["deploy"]["replicas"])]
        probes = [f"http://127.0.0.1:{port_of(process, 'probes')}/readyz" for process in processes]
        wait_until(lambda: all(ask(probe)[0] == 200 for probe in probes), "all processes are ready")
        prometheus = cleanup.enter_context(Prometheus(tmp_path, [port_of(process, "metrics") for process in processes]))
        wait_until(lambda: prometheus.targets() == ["up"] * 5, "all targets are up")
        assert [rule["name"] for rule in prometheus.rules()] == [alert["alert"] for alert in alerts()]

        texts = {"$job": prometheus.job, "$namespace": "orders", "$step": ".+", "$__rate_interval": "5s"}
        queries = {place: re.sub(r"\$\w+", lambda m: texts[m[0]], text) for place, text in expressions().items()}
        orders = iter(range(100_000))

        def order_some() -> None:
            """Make changes, through both processes, of which one cannot be shipped: work for every panel."""
            for process in processes[:2]:
                url = f"http://127.0.0.1:{process.port}/orders/{next(orders)}"
                assert httpx.post(url, json={"address": "here"}, timeout=5).status_code == 201
            httpx.post(f"http://127.0.0.1:{processes[0].port}/orders/none", json={}, timeout=5)

        def all_have_data() -> bool:
            order_some()
            nonlocal without
            without = [place for place, text in queries.items() if not prometheus.query(text)]
            return not without

        without: list[str] = []
        try:
            wait_until(all_have_data, "every expression of the dashboard yields data", deadline=2 * DEADLINE)
        except AssertionError:
            raise AssertionError(f"no data for {without}") from None
        assert prometheus.query("max(motia_redis_workers)")[0]["value"][1] == "3"
        assert prometheus.query('sum(motia_redis_worker_lanes_held{step="ShipOrder"})')[0]["value"][1] == "8"
        assert {rule["name"]: rule.get("lastError") for rule in prometheus.rules() if rule["health"] != "ok"} == {}
        assert prometheus.firing() <= {"MotiaRedisDeadLettersGrow"}, "of the order that cannot be shipped"
        assert [process.stop() for process in processes] == [0] * 5


def test_arguments_of_valkey_keep_data_and_evict_nothing(valkey: RedisServer) -> None:
    """As `motia-redis doctor` sees it."""
    done = subprocess.run(
        [sys.executable, "-m", "motia_redis", "doctor", "--json", "--redis", valkey.url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    (node,) = json.loads(done.stdout)["servers"]
    assert {finding["check"]: finding["found"] for finding in node["findings"] if finding["outcome"] != "ok"} == {}
    found = {finding["check"]: finding["found"] for finding in node["findings"]}
    assert found["eviction"] == "maxmemory-policy noeviction"
    assert found["persistence"].startswith("append-only file, appendfsync everysec")
    assert "of 536.9 MB used" in found["memory"]
