"""The files in deploy/: what they start, with which arguments, and how Prometheus reads them."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.snippets import ROOT

if TYPE_CHECKING:
    from pathlib import Path

DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
KUBERNETES = DEPLOY / "kubernetes"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
PROMETHEUS = DEPLOY / "prometheus"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "motia-redis.json"


@dataclass(frozen=True, slots=True)
class Started:
    """One process that a file starts: the arguments of `motia-redis`, and the seconds between SIGTERM and SIGKILL."""

    name: str
    arguments: list[str]
    stop_time: float

    def option(self, name: str) -> str:
        """Return the value of an option."""
        return self.arguments[self.arguments.index(name) + 1]


def services() -> dict[str, Any]:
    """Return the services of compose.yaml, with what is merged into them."""
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def manifests() -> list[tuple[str, dict[str, Any]]]:
    """Return each Kubernetes object with its name, those of kustomize left out."""
    paths = [path for path in sorted(KUBERNETES.glob("*.yaml")) if path.name != "kustomization.yaml"]
    documents = [document for path in paths for document in yaml.safe_load_all(path.read_text())]
    return [(f"{document['kind']}/{document['metadata']['name']}", document) for document in documents]


def deployments() -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Return the name, the pod's spec and the container of each Deployment."""
    found = []
    for name, document in manifests():
        if document["kind"] == "Deployment":
            spec = document["spec"]["template"]["spec"]
            (container,) = spec["containers"]
            found.append((name, spec, container))
    return found


def unit(path: Path) -> configparser.SectionProxy:
    """Return the section `Service` of a systemd unit; of names that are given twice, the last."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=["="])
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(path)
    return parser["Service"]


def started() -> list[Started]:
    """Return every process of this package that a file in deploy/ starts."""
    found = [
        Started(f"compose {name}", service["command"], float(service["stop_grace_period"].removesuffix("s")))
        for name, service in services().items()
        if service["image"] == "motia-redis-app"
    ]
    for name, spec, container in deployments():
        hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
        assert hook[0] == "sleep"
        found.append(Started(name, container["args"], spec["terminationGracePeriodSeconds"] - float(hook[1])))
    for path in UNITS:
        service = unit(path)
        words = shlex.split(service["ExecStart"].replace("%i", "3000"))
        found.append(Started(path.name, words[1:], float(service["TimeoutStopSec"])))
    return found


def panels() -> list[dict[str, Any]]:
    """Return the panels of the dashboard, rows left out."""
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    """Return each expression of the dashboard by the place where it stands."""
    return {f"{panel['title']} {query['refId']}": query["expr"] for panel in panels() for query in panel["targets"]}


def alerts() -> list[dict[str, Any]]:
    """Return the alert rules."""
    (group,) = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def metrics_in(expression: str) -> set[str]:
    """Return the names of this package's metrics in an expression."""
    return set(re.findall(r"\bmotia_redis_\w+(?=[\s{)\[]|$)", expression))


def program(name: str, package: str) -> str:
    """Return the path of a program; skip the test if it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install {package}")
    return found


def run(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a program that checks files."""
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def at_home(arguments: list[str], app: Path) -> list[str]:
    """Return the arguments of a container for this machine: free ports of 127.0.0.1, and another folder of the application."""
    found = [re.sub(r"^(0\.0\.0\.0:)?\d{4}$", lambda m: "127.0.0.1:0" if m[1] else "0", word) for word in arguments]
    return [word.replace("0.0.0.0", "127.0.0.1").replace("/app", str(app)) for word in found]
