"""Run a real Prometheus that scrapes processes under test."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.parse
from typing import TYPE_CHECKING, Any

import yaml

from tests.support.deploying import PROMETHEUS, program
from tests.support.http import ask
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path


class Prometheus:
    """Run Prometheus with the files of deploy/ within `with`, at other addresses and with shorter pauses.

    `rules`: the text of the alert rules, if they are others.
    """

    def __init__(self, directory: Path, targets: list[int], rules: str | None = None) -> None:
        config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
        config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        (name,) = config["rule_files"]
        (directory / name).write_text((PROMETHEUS / name).read_text() if rules is None else rules)
        (job,) = config["scrape_configs"]
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in targets]}]
        self.job: str = job["job_name"]
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._directory = directory
        self._log = directory / "prometheus.log"

    @staticmethod
    def program() -> str:
        """Return the path of Prometheus; skip the test if it is not installed."""
        return program("prometheus", "prometheus")

    def __enter__(self) -> Prometheus:
        words = ["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--web.listen-address=127.0.0.1:0"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([self.program(), *words], stdout=log, stderr=log, cwd=self._directory)
        try:
            wait_until(lambda: self._address() is not None or self._process.poll() is not None, "Prometheus listens")
            address = self._address()
            assert address is not None, self._log.read_text()
            self._url = f"http://{address}"
            wait_until(lambda: ask(f"{self._url}/-/ready")[0] == 200, "Prometheus is ready")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _address(self) -> str | None:
        found = re.search(r'"Listening on" address=(\S+)', self._log.read_text())
        return found[1] if found else None

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def get(self, path: str, **parameters: str) -> Any:
        """Return what a request to its API yields."""
        status, text = ask(f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        assert status == 200, (parameters, text)
        return json.loads(text)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series that an expression yields now."""
        found: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return found

    def targets(self) -> list[str]:
        """Return the health of each process that is scraped."""
        return [target["health"] for target in self.get("targets")["activeTargets"]]

    def rules(self) -> list[dict[str, Any]]:
        """Return the alert rules that it evaluates."""
        (group,) = self.get("rules")["groups"]
        found: list[dict[str, Any]] = group["rules"]
        return found

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        return {alert["labels"]["alertname"] for alert in self.get("alerts")["alerts"] if alert["state"] == "firing"}
