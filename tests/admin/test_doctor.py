"""Test `motia-redis doctor`, and the warnings that a first connection logs."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import StateManager
from motia_redis._store import sessions
from motia_redis._transport import health
from tests.support.servers import RedisServer

if TYPE_CHECKING:
    from pathlib import Path

    import redis

GOOD = {
    "redis_version": "7.2.0", "role": "master", "cluster_enabled": 0, "maxmemory": 0, "maxmemory_policy": "noeviction",
    "used_memory": 1, "aof_enabled": 1, "connected_slaves": 0, "aof_last_write_status": "ok", "aof_last_bgrewrite_status": "ok",
    "rdb_last_bgsave_status": "ok",
}  # fmt: skip
KEPT = {"save": "", "appendfsync": "always"}


def doctor(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "motia_redis", "doctor", "--redis", url, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def outcome(check: str, info: dict[str, Any], config: dict[str, str] = KEPT) -> tuple[str, str]:
    (line,) = [line for line in health.findings(GOOD | info, config, in_cluster=False) if line.check == check]
    assert (line.remedy == "") == (line.outcome == "ok"), "every finding that is not ok has a remedy"
    return line.outcome, line.found


@pytest.mark.parametrize(
    ("check", "info", "config", "expected", "says"),
    [
        ("version", {"redis_version": "6.0.9"}, KEPT, "failed", "6.0.9"),
        ("version", {"redis_version": "6.2.0"}, KEPT, "ok", "Redis 6.2.0"),
        ("version", {"valkey_version": "8.0.1"}, KEPT, "ok", "Valkey 8.0.1"),
        ("topology", {"cluster_enabled": 1}, KEPT, "failed", "Cluster"),
        ("role", {"role": "slave"}, KEPT, "failed", "replica"),
        ("eviction", {"maxmemory_policy": "allkeys-lru"}, KEPT, "warning", "once a maxmemory is set"),
        ("eviction", {"maxmemory_policy": "allkeys-lru", "maxmemory": 10}, KEPT, "failed", "evicted"),
        ("eviction", {"maxmemory_policy": "volatile-ttl", "maxmemory": 10}, KEPT, "warning", "repeated calls"),
        ("memory", {"used_memory": 90, "maxmemory": 100}, KEPT, "warning", "used"),
        ("memory", {"used_memory": 99, "maxmemory": 100}, KEPT, "failed", "full"),
        ("memory", {"used_memory": 70, "maxmemory": 100}, KEPT, "ok", "used"),
        ("persistence", {}, KEPT, "ok", "appendfsync always"),
        ("persistence", {}, {}, "unknown", "append-only"),
        ("persistence", {}, {"appendfsync": "no"}, "warning", "operating system"),
        ("persistence", {"aof_enabled": 0}, {"save": ""}, "warning", "loses everything"),
        ("persistence", {"aof_enabled": 0}, {"save": "60 1"}, "warning", "snapshots only"),
        ("persistence", {"aof_enabled": 0}, {}, "warning", "or everything"),
        ("disk", {"aof_last_write_status": "err"}, KEPT, "failed", "aof_last_write_status"),
        ("replicas", {"connected_slaves": 2}, {"min-replicas-to-write": "0"}, "warning", "2 connected"),
        ("replicas", {"connected_slaves": 2}, {"min-replicas-to-write": "1"}, "ok", "2 connected"),
        ("replicas", {"connected_slaves": 2}, {}, "unknown", "2 connected"),
    ],
)
def test_check_reports_the_outcome_of_a_setting(
    check: str, info: dict[str, Any], config: dict[str, str], expected: str, says: str
) -> None:
    found = outcome(check, info, config)
    assert found[0] == expected
    assert says in found[1]


def test_no_warning_when_redis_is_configured_for_durability() -> None:
    assert list(health.warnings(GOOD, KEPT)) == []
    assert {line.outcome for line in health.findings(GOOD, KEPT, in_cluster=False)} == {"ok"}


def test_checks_are_unknown_with_a_remedy_when_info_is_rejected() -> None:
    found = health.findings(None, KEPT, in_cluster=False)
    assert [line.check for line in found] == [line.check for line in health.findings(GOOD, KEPT, in_cluster=False)]
    assert {(line.outcome, line.remedy) for line in found} == {
        ("unknown", "grant the user +info (ACL rule in docs/operating.md)")
    }


@pytest.mark.parametrize("field", GOOD)
def test_check_is_unknown_when_info_lacks_a_field(field: str) -> None:
    info = {name: value for name, value in GOOD.items() if name != field}
    unknown = [line for line in health.findings(info, KEPT, in_cluster=False) if line.outcome != "ok"]
    assert unknown
    assert {(line.outcome, line.found, bool(line.remedy)) for line in unknown} == {("unknown", f"INFO has no {field}", True)}
    assert list(health.warnings(info, KEPT)) == []


@pytest.mark.parametrize(
    ("skew", "expected"), [(0.5, "ok"), (-0.5, "ok"), (5.0, "warning"), (-5.0, "warning"), (None, "unknown")]
)
def test_clock_is_ok_only_when_its_skew_is_known_and_small(skew: float | None, expected: str) -> None:
    finding = health.clock(skew)
    assert (finding.outcome, finding.remedy == "") == (expected, expected == "ok")


@pytest.mark.parametrize(
    ("skews", "expected"),
    [
        ({"a": 0.1}, "ok"),
        ({"a": 0.1, "b": -0.1}, "ok"),
        ({"a": 9.0, "b": 9.0}, "ok"),  # only this machine's clock is wrong
        ({"a": 1.5, "b": -1.5, "c": 0.0}, "warning"),
        ({"a": 1.5, "b": None}, "unknown"),
    ],
)
def test_clocks_of_servers_are_compared_with_each_other(skews: dict[str, float | None], expected: str) -> None:
    finding = health.clocks(skews)
    assert (finding.outcome, finding.remedy == "") == (expected, expected == "ok")
    if expected == "warning":
        assert "differ by up to 3.0 s: a is ahead of b" in finding.found


def test_doctor_reports_unknown_when_the_user_may_not_run_info_time_and_config(
    server: RedisServer, raw: redis.Redis, namespace: str
) -> None:
    raw.execute_command("ACL", "SETUSER", namespace, "on", ">secret", "~*", "+@all", "-info", "-time", "-config")
    try:
        url = f"unix://{namespace}:secret@{server.socket}"
        done = doctor(url, "--namespace", namespace, "--json")
        printed = doctor(url, "--namespace", namespace).stdout
    finally:
        raw.execute_command("ACL", "DELUSER", namespace)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(line["check"], line["outcome"]) for line in found["findings"]] == [("clocks", "unknown"), ("layout", "unknown")]
    (node,) = found["servers"]
    outcomes = {line["check"]: line["outcome"] for line in node["findings"]}
    assert outcomes.pop("speed") in {"ok", "warning"}
    assert outcomes.pop("permissions") == outcomes.pop("scripts") == "ok"
    assert outcomes.keys() >= {"version", "topology", "role", "eviction", "memory", "persistence", "disk", "replicas", "clock"}
    assert set(outcomes.values()) == {"unknown"}
    assert "-> grant the user +info (ACL rule in docs/operating.md)" in printed
    assert "-> grant the user +time (ACL rule in docs/operating.md)" in printed


def test_permissions_fail_with_the_acl_rule_as_remedy_when_scripts_are_denied(
    server: RedisServer, raw: redis.Redis, namespace: str
) -> None:
    raw.execute_command("ACL", "SETUSER", namespace, "on", ">secret", "~other:*", "+@all")
    try:
        done = doctor(f"unix://{namespace}:secret@{server.socket}", "--namespace", namespace)
    finally:
        raw.execute_command("ACL", "DELUSER", namespace)
    assert done.returncode == 1, done.stderr
    assert "failed   permissions " in done.stdout
    assert "-> give the user the ACL rule in docs/operating.md" in done.stdout


async def test_missing_persistence_is_logged_once_a_process_however_many_managers_connect(
    server: RedisServer, namespace: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "_warned", set())  # other tests of this process have connected to this server
    with caplog.at_level(logging.WARNING, "motia_redis"):
        for state in [StateManager(server.url, namespace=namespace) for _ in range(2)]:
            for _ in range(2):
                await state.connect()
                await state.close()
    (warning,) = caplog.messages
    assert "nothing is kept on disk" in warning
    assert "appendonly yes" in warning


async def test_eviction_is_logged_and_fails_the_doctor(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(tmp_path, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru", "--appendonly", "yes") as server:
        async with StateManager(server.url):
            pass
        (warning,) = caplog.messages
        assert "state is evicted" in warning
        done = doctor(server.url)
        assert done.returncode == 1, done.stderr
        assert "failed   eviction       maxmemory-policy allkeys-lru" in done.stdout
        assert "-> CONFIG SET maxmemory-policy noeviction" in done.stdout


def test_doctor_command_prints_findings_and_does_not_create_the_namespace(
    server: RedisServer, raw: redis.Redis, namespace: str
) -> None:
    done = doctor(server.url, "--namespace", namespace)
    assert done.returncode == 0, done.stderr
    assert str(server.socket) in done.stdout
    assert "warning  persistence    nothing is kept on disk" in done.stdout
    assert "ok       version" in done.stdout
    assert raw.keys(f"{namespace}:*") == []
    assert "unknown  layout         there is no such namespace" in done.stdout
    (node,) = json.loads(doctor(server.url, "--json").stdout)["servers"]
    assert {line["check"] for line in node["findings"]} >= {"version", "eviction", "persistence", "clock", "permissions"}


def test_doctor_command_prints_one_line_when_redis_is_unreachable() -> None:
    done = doctor("redis://127.0.0.1:1")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "cannot reach Redis" in done.stderr


def test_program_without_logging_prints_each_warning_once_and_nothing_else(server: RedisServer, namespace: str) -> None:
    program = (
        "import asyncio, sys\n"
        "from motia_redis import StateManager\n"
        "async def main():\n"
        "    for number in range(3):\n"
        "        async with StateManager(sys.argv[1], namespace=f'{sys.argv[2]}-{number}') as state:\n"
        "            await state.set('a', 'b', 1)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program, server.url, namespace], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "nothing is kept on disk" in line
