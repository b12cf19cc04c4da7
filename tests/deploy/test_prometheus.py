"""The alert rules, the configuration and the dashboard: Prometheus accepts them, and they use metrics that exist."""

from __future__ import annotations

import json
import re
import shutil
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.applications import Command
from tests.support.deploying import DASHBOARD, PROMETHEUS, alerts, expressions, metrics_in, panels, program, run
from tests.support.http import ask, port_of
from tests.support.snippets import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import RedisServer

ALERTS = alerts()
RUNBOOKS = ROOT / "docs" / "runbooks.md"


def promtool(*words: str, cwd: Path = PROMETHEUS) -> tuple[int, str]:
    done = run(program("promtool", "prometheus"), *words, cwd=cwd)
    return done.returncode, done.stdout + done.stderr


def test_promtool_accepts_configuration_and_rules() -> None:
    code, output = promtool("check", "config", "prometheus.yml")
    assert code == 0, output
    assert f"SUCCESS: {len(ALERTS)} rules found" in output


def test_every_alert_fires_in_its_trouble_and_not_else() -> None:
    code, output = promtool("test", "rules", "alerts_test.yml")
    assert code == 0, output


@pytest.mark.parametrize("change", ["never", "always", "at once"])
@pytest.mark.parametrize("alert", [alert["alert"] for alert in ALERTS])
def test_alert_that_is_changed_fails_its_test(alert: str, change: str, tmp_path: Path) -> None:
    """Each rule is tested from both sides: one that never fires, one that always does and one without `for` are found."""
    rules = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())
    rule = next(each for each in rules["groups"][0]["rules"] if each["alert"] == alert)
    if change == "at once":
        if "for" not in rule:
            return  # it has none
        del rule["for"]
    else:
        rule["expr"] = "vector(1) > 2" if change == "never" else "vector(1)"
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(rules))
    shutil.copy(PROMETHEUS / "alerts_test.yml", tmp_path)
    code, output = promtool("test", "rules", "alerts_test.yml", cwd=tmp_path)
    assert code == 1, output
    assert "FAILED" in output


def test_there_are_ten_alerts_each_with_its_own_runbook() -> None:
    headings = re.findall(r"^## (MotiaRedis\w+)$", RUNBOOKS.read_text(), re.MULTILINE)
    assert headings == [alert["alert"] for alert in ALERTS]
    assert len(headings) == 10
    for alert in ALERTS:
        assert alert["annotations"]["runbook"] == f"docs/runbooks.md#{alert['alert'].lower()}"


def test_rules_and_dashboard_use_metrics_that_a_worker_has(server: RedisServer, namespace: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        'from motia_redis import queue, step\n@step({"name": "S", "triggers": [queue("t")]})\ndef s(data): pass\n'
    )
    options = ["--redis", server.url, "--namespace", namespace, "--metrics", "0"]
    with Command(tmp_path, "worker", "app.py", *options) as process:
        _, text = ask(f"http://127.0.0.1:{port_of(process, 'metrics')}/metrics", timeout=20)
    types = dict(re.findall(r"^# TYPE (motia_redis_\w+) (\w+)$", text, re.MULTILINE))
    parts = {"histogram": ["_bucket", "_sum", "_count"]}
    exist = {name + suffix for name, kind in types.items() for suffix in parts.get(kind, [""])}
    used = {place: metrics_in(text) for place, text in expressions().items()}
    used |= {alert["alert"]: metrics_in(alert["expr"]) for alert in ALERTS}
    assert {place: names - exist for place, names in used.items() if names - exist} == {}
    assert len(set().union(*used.values())) > 25, "the pattern for names finds them"


def test_dashboard_has_the_rows_and_places_no_panel_on_another() -> None:
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text())
    every = dashboard["panels"]
    assert [panel["title"] for panel in every if panel["type"] == "row"] == [
        "Overview", "Steps", "Calls", "Processes", "Redis and streams",
    ]  # fmt: skip
    assert len({panel["id"] for panel in every}) == len(every)
    for first, second in combinations([panel["gridPos"] for panel in every], 2):
        beside = first["x"] + first["w"] <= second["x"] or second["x"] + second["w"] <= first["x"]
        assert beside or first["y"] + first["h"] <= second["y"] or second["y"] + second["h"] <= first["y"], (first, second)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in every)


def test_dashboard_uses_only_its_own_variables_and_says_what_each_panel_shows() -> None:
    variables = {variable["name"] for variable in json.loads(DASHBOARD.read_text())["templating"]["list"]}
    for place, text in expressions().items():
        assert set(re.findall(r"\$(\w+)", text)) <= variables | {"__rate_interval"}, place
    for panel in panels():
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["description"].endswith("."), panel["title"]
