"""Find planted troubles with `doctor`, `status` and the metrics alone, as a person on call does."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from motia_redis import StateManager
from motia_redis._admin.families import FAMILIES
from motia_redis._admin.numbers import Facts, Numbers
from motia_redis._metrics import Metrics
from motia_redis.admin import examine, read_status
from tests.support.clusters import Cluster
from tests.support.servers import RedisServer
from tests.support.troubles import TROUBLES, plant
from tests.support.waiting import until

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

#: Findings that a trouble brings beside its own.
BESIDE = {
    "dead-letter-wave": set(),
    "late-schedule": {"lanes", "due"},
    "no-worker": {"workers"},
    "two-versions": {"library"},
    "full-redis": set(),
}
CHECKS = {
    "clocks", "layout", "workers", "library", "versions", "lanes", "unwanted-lanes", "paused", "stuck-keys", "backlog",
    "schedules", "due",
    "unread-topics", "dropped", "dead-letters", "held-memory", "hot-keys", "large-scopes", "large-values",
}  # fmt: skip


class Shown(NamedTuple):
    """Where else than in `doctor` a trouble can be seen."""

    status: str = ""  #: a pattern of a line of `motia-redis status`
    metric: str = ""
    labels: tuple[str, ...] = ()
    least: float = 1


SHOWN = {
    "stuck-key": Shown(r"Charge: scope payments key order-13: \d+ attempts failed", "step_keys_failing", ("Charge",)),
    "hanging-handler": Shown(
        r"Charge: scope payments key order-13: the handler has run for \d+ s in process \d+",
        "step_oldest_unhandled_age_seconds",
        ("Charge",),
        5,
    ),
    "dead-letter-wave": Shown(r"Mail .* 40$", "step_dead_letters", ("Mail",), 40),
    "unwanted-lanes": Shown(r"Ship: no version wants 8 lanes any more \(topic returns\)", "step_lanes_unwanted", ("Ship",), 8),
    "paused-worker": Shown(r"\(process \d+ on .*\): no heartbeat for \d+ s", "workers_silent"),
    "no-worker": Shown(r"Ship +3 +0 .* 0/8 ", "step_entries_behind", ("Ship",), 3),
    "two-versions": Shown(r"Ship: 1 worker of a version for scope orders, topic returns", "step_versions", ("Ship",), 2),
    "late-schedule": Shown(r"Report: cron UTC 0 8 \* \* \*: overdue", "step_schedules_late", ("Report",)),
    "unread-topic": Shown(r"topic audit: 12 messages", "unread_topic_messages", (), 12),
}


def site(name: str, server: RedisServer, folder: Path) -> AbstractContextManager[RedisServer | Cluster]:
    """Return the server that a trouble needs."""
    if TROUBLES[name] == "cluster":
        return Cluster(folder)
    return RedisServer(folder, "--appendonly", "yes") if TROUBLES[name] == "own server" else nullcontext(server)


async def run(url: str, namespace: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "motia_redis", *arguments, "--redis", url, "--namespace", namespace]
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)


def lines_of(text: str, check: str) -> list[str]:
    """Return the lines of a check that are not ok, each with its remedy."""
    return re.findall(rf"^  (?:warning|failed ) +{check} .*\n +-> .*", text, re.MULTILINE)


@pytest.mark.parametrize("name", [name for name in TROUBLES if name != "healthy"])
async def test_doctor_names_the_trouble_with_its_place_and_a_remedy(
    name: str, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    with site(name, server, tmp_path) as its_server:
        async with plant(name, its_server.url, namespace) as trouble:
            text = ""

            async def is_named() -> bool:  # a heartbeat names a handler after 5 s
                nonlocal text
                text = (await run(its_server.url, namespace, "doctor", "--stuck-after", "5")).stdout
                return bool(lines_of(text, trouble.finding))

            await until(is_named, f"doctor names {name}")
            named = "\n".join(line for check in {trouble.finding, *BESIDE.get(name, ())} for line in lines_of(text, check))
            assert [word for word in trouble.expected if word not in named] == [], text
            others = {check for check in CHECKS if lines_of(text, check)} - {trouble.finding, *BESIDE.get(name, ())}
            assert others == set(), text


@pytest.mark.parametrize("name", SHOWN)
async def test_status_and_metrics_show_the_trouble(name: str, server: RedisServer, namespace: str) -> None:
    shown = SHOWN[name]
    async with plant(name, server.url, namespace), StateManager(server.url, namespace=namespace) as state:

        async def is_shown() -> bool:
            found = re.search(shown.status, (await run(server.url, namespace, "status")).stdout, re.MULTILINE)
            numbers = Numbers(Metrics(), state, None)
            numbers.facts = Facts(await read_status(state), None, 0.0)
            (family,) = [family for family in FAMILIES if family.name == shown.metric]
            samples = family.read(numbers) or {}
            values = [value for labels, value in samples.items() if set(shown.labels) <= set(labels)]
            return bool(found) and max(values, default=-1.0) >= shown.least

        await until(is_shown, f"status and {shown.metric} show {name}")


async def test_healthy_namespace_has_no_finding(server: RedisServer, namespace: str, tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--appendonly", "yes") as own:
        async with plant("healthy", own.url, namespace), StateManager(own.url, namespace=namespace) as state:
            done = await run(own.url, namespace, "doctor")
            found = await examine(state)
        assert {finding.check for finding in found.findings} == CHECKS
        all_findings = [*found.findings, *(finding for examined in found.servers for finding in examined.findings)]
        assert [finding for finding in all_findings if finding.outcome != "ok" and finding.check != "speed"] == []
        assert [finding for finding in all_findings if finding.outcome == "ok" and finding.remedy] == []
        assert done.returncode == 0
        assert "->" not in done.stdout or "speed" in done.stdout


def test_docs_list_every_check_of_the_namespace() -> None:
    text = (Path(__file__).parent.parent.parent / "docs" / "operating.md").read_text()
    table = text.split("| check of the namespace |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)) == CHECKS
