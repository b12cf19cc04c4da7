"""Figures, goals and reports: what the benchmarks make of their measurements."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks import capacity, servers, sync, telemetry, together, watch
from benchmarks import time as benchmark_time
from benchmarks.calling import goals as calls_goals
from benchmarks.calling import report as calls_report
from benchmarks.common import machine, plots, program, results, tables
from benchmarks.common.goals import Verdict
from benchmarks.common.rounds import Spread, alternate, order, ratio
from benchmarks.growing import report as growth_report
from benchmarks.growing.series import Line, Series
from benchmarks.triggering import goals as triggers_goals
from benchmarks.triggering import report as triggers_report
from benchmarks.updating import report as update_report

ROOT = Path(__file__).parent.parent.parent.parent


@pytest.mark.parametrize(
    "name",
    [
        "update",
        "update-redis-6.2",
        "update-valkey-9.1",
        "calls",
        "triggers",
        "growth",
        "together",
        "time",
        "watch",
        "sync",
        "telemetry",
        "servers",
        "capacity",
    ],
)
def test_page_has_a_section_for_every_benchmark(name: str) -> None:
    assert tables.has(results.README, name)


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("*.json")), ids=lambda path: path.stem)
def test_tables_of_the_page_match_the_result_file(path: Path) -> None:
    reports: dict[str, Any] = {
        "update": update_report, "calls": calls_report, "triggers": triggers_report, "growth": growth_report,
        "together": together, "time": benchmark_time, "watch": watch, "sync": sync, "telemetry": telemetry,
        "servers": servers, "capacity": capacity,
    }  # fmt: skip
    result = json.loads(path.read_text())
    assert result["benchmark"] == path.stem
    assert reports[path.stem.partition("-")[0]].text(result).strip() in results.README.read_text()


def test_each_round_starts_with_the_next_contender() -> None:
    order: list[str] = []
    figures = alternate({name: lambda name=name: order.append(name) or 1.0 for name in "abc"}, 2)
    assert "".join(order) == "abcbca"
    assert figures == {"a": [1.0, 1.0], "b": [1.0, 1.0], "c": [1.0, 1.0]}


def test_order_of_a_round_begins_with_the_next_contender_and_starts_over() -> None:
    assert ["".join(order("abc", turn)) for turn in range(4)] == ["abc", "bca", "cab", "abc"]


def test_ratio_is_the_median_of_the_ratios_of_each_round() -> None:
    assert ratio([1, 20, 3], [2, 40, 6]) == Spread(0.5, 0.5, 0.5)


def test_goal_is_met_if_the_figure_equals_the_limit() -> None:
    assert Verdict(2.0, 2.0).met
    assert Verdict(2.0, 2.0, at_least=True).met
    assert not Verdict(2.1, 2.0).met
    assert not Verdict(1.9, 2.0, at_least=True).met
    assert (Verdict(4.0, 2.0).distance, Verdict(1.0, 2.0, at_least=True).distance) == (2.0, 2.0)


def spread(middle: float) -> dict[str, float]:
    return {"median": middle, "low": middle * 0.9, "high": middle * 1.1}


FACTS = {
    "machine": {"cpu": "Example", "cores": "2"},
    "settings": {"redis": "8.2.3", "rounds": "5"},
    "left out": {"celery": "broken"},
}
CONDITIONS = "Machine: cpu Example, cores 2.  \nSettings: redis 8.2.3, rounds 5.  \nLeft out: celery: broken.\n"


def case(work: str, tasks: int, **times: float) -> dict[str, Any]:
    named = {name.replace("_", "-"): spent for name, spent in times.items()}
    ratios = {name: named["ours"] / spent for name, spent in named.items() if name != "ours"}
    return {
        "work": work,
        "tasks": tasks,
        "socket": "Unix",
        "loop": "uvloop",
        "times": {name: spread(spent) for name, spent in named.items()},
        "cpu": {name: spread(spent) for name, spent in named.items()},
        "ratios": {name: spread(each) for name, each in ratios.items()},
        "speedups": {name: spread(1 / each) for name, each in ratios.items()},
        "cpu_ratios": {name: spread(each) for name, each in ratios.items()},
    }


def calls_result() -> dict[str, Any]:
    statements = {"ours": "import motia_redis", "its parts": "import redis.asyncio"}
    return {
        **FACTS,
        "cases": [case("get", 1, ours=90, redis_py=100), case("get", 64, ours=10, redis_py=50, coredis=40, valkey_glide=25)],
        "imports": {"statements": statements, "milliseconds": dict.fromkeys(statements, spread(100)), "excess": spread(70)},
        "memory": {"keys": 1000, "value_bytes": 200, "bytes": {"plain hash": 1e6, "ours, settled": 1.5e6}},
    }


def test_report_of_calls_shows_met_and_missed_goals() -> None:
    printed = calls_report.text(calls_result())
    assert printed.startswith(CONDITIONS)
    assert "| `get`, one at a time: time, of redis-py's | Unix, uvloop | 0.90 times | ≤ 0.80 times | **0 of 1** |" in printed
    assert "| `get` by 64 tasks: rate, of redis-py's | Unix, uvloop | 5.00 times | ≥ 6.50 times | **0 of 1** |" in printed
    assert "| 70.0 ms | ≤ 60.0 ms | **0 of 1** |" in printed
    assert (
        "| get | Unix, uvloop | redis-py | 90.0 (81.0 to 99.0) | 100 (90.0 to 110) | 0.90 (0.81 to 0.99) | ≤ 0.80 | **no** |"
        in printed
    )
    assert "100,000 (90,909 to 111,111)" in printed


def test_goal_against_several_rivals_is_compared_with_the_fastest() -> None:
    rows = {row.goal: row for row in calls_goals.table(calls_result())}
    row = rows["`get` by 64 tasks: rate, of the better of coredis and valkey-glide"]
    assert (row.where, row.worst.figure, row.met) == ("Unix, uvloop, valkey-glide", 2.5, 1)


def drained(name: str, rate: float, *, one_by_one: bool = True) -> dict[str, Any]:
    return {
        "name": name,
        "settings": "as they are",
        "events": 1000,
        "one by one": one_by_one,
        "rate": spread(rate),
        "cpu": spread(1e6 / rate),
        "ratio": spread(40_000 / rate),
    }


def triggers_result() -> dict[str, Any]:
    times = {"commands": spread(20), "cpu": spread(30)}
    return {
        **FACTS,
        "rivals": {"huey": {"huey": "3.0", "redis": "6.0"}},
        "throughput": [drained("ours", 40_000), drained("bare loop", 90_000, one_by_one=False), drained("huey", 5000)],
        "latencies": [
            {"name": name, "p50": spread(0.5), "p99": spread(1.0), "ratio": {"p50": spread(1.2), "p99": spread(0.8)}}
            for name in ("ours", "bare loop", "huey")
        ],
        "workers": {"events": 1000, "one": spread(40_000), "two": spread(72_000), "ratio": spread(1.8)},
        "condition": {
            "events": 1000,
            "without": spread(40_000),
            "with": spread(60_000),
            "ratio": spread(1.5),
            "with where": spread(100_000),
            "ratio of where": spread(2.5),
        },
        "steps": [{"steps": steps, "events": 300, "cost": spread(20), "ratio": spread(1.0)} for steps in (1, 5, 20)],
        "server time": {"events": 1000, "ours": times, "bare loop": times, "ratio": {part: spread(1.0) for part in times}},
    }


def test_report_of_triggers_shows_met_and_missed_goals() -> None:
    printed = triggers_report.text(triggers_result())
    assert printed.startswith(CONDITIONS.replace("Settings", "Rivals: huey 3.0.  \nSettings"))
    assert "| one worker handles 30,000 events a second | 40,000 | ≥ 30,000 | yes |" in printed
    assert "| three times the rate where a `where` filters 99 % out | 2.50 | ≥ 3.00 | **no** |" in printed
    assert "| 10 times the best rival that delivers one by one (huey) | 8.00 | ≥ 10.0 | **no** |" in printed
    assert "| latency, p50: of the best rival's (huey) | 1.20 | ≤ 1.20 | yes |" in printed
    assert "| two workers / one worker | 1,000 | 40,000 | 72,000 | 1.80 | 1.62 to 1.98 |" in printed


def test_triggers_have_fewer_goals_without_rivals_or_on_an_old_server() -> None:
    result = triggers_result()
    every = set(triggers_goals.judge(result))
    for section in ("throughput", "latencies"):
        result[section] = [row for row in result[section] if row["name"] != "huey"]
    result["server time"] = None
    fewer = set(triggers_goals.judge(result))
    assert fewer < every
    assert len(every - fewer) == 4
    assert "Not measured: needs Redis 7.2 or newer." in triggers_report.text(result)


def growth_result() -> dict[str, Any]:
    sizes = (100, 1000, 10_000)
    fast, steady = ({size: [cost(size)] * 5 for size in sizes} for cost in (lambda size: size / 10.0, lambda size: 50.0))
    lines = [Line("get", "µs", 0, steady), Line("list", "µs", 0, fast), Line("scan", "µs", 1, fast)]
    return {**FACTS, "series": [Series("keys", "keys per scope", lines, {"filling": "2 s"}).as_dict()]}


def test_report_of_growth_names_operations_that_grow_too_fast() -> None:
    printed = growth_report.text(growth_result())
    assert printed.startswith(CONDITIONS)
    assert "2 of 3 lines are within their limit; above it: list over keys per scope." in printed
    assert "| get, µs | 50.0 | 50.0 | 50.0 | 0.00 | 0 | no |" in printed
    assert "| list, µs | 10.0 | 100 | 1,000 | 1.00 | 0 | **yes** |" in printed
    assert "filling: 2 s." in printed


def together_result() -> dict[str, Any]:
    ours = {"call": spread(50), "server": spread(20), "call ratio": spread(1.0), "server ratio": spread(1.0)}
    rival = {"call": spread(100), "server": spread(5), "call ratio": spread(0.5), "server ratio": spread(4.0)}
    same = {"group": "sets", "size": 10}
    return {**FACTS, "figures": [{**same, "name": "transaction", **ours}, {**same, "name": "redis-py, MULTI/EXEC", **rival}]}


def test_report_of_together_compares_the_first_contender_with_each() -> None:
    printed = together.text(together_result())
    assert printed.startswith(CONDITIONS)
    assert "| 10 | sets | redis-py, MULTI/EXEC | 100 | 0.50 (0.45 to 0.55) | 5.00 | 4.00 (3.60 to 4.40) |" in printed


def time_result() -> dict[str, Any]:
    fell_due = {
        "kind": "values", "setting": "1,000 a second", "count": 4000, "rate": 999.6, "late": {"p50": 1, "p99": 10, "max": 13},
        "ping": {"p50": 0.08, "p99.9": 1.09, "max": 16.2}, "server µs": 120.4, "client µs": 9.5,
        "idle ping": {"p99.9": 0.9, "max": 12.0},
        "call p99.9": 1.5,
    }  # fmt: skip
    waits = {"kind": "values", "count": 1_000_000, "server": 0.0329, "process": 0.02, "bytes": 337.2}
    ttl = {"bytes": 895, "plain": spread(8), "ttl": spread(18), "more": spread(10)}
    return {**FACTS, "due": [fell_due], "far": [waits], "ttl": [ttl]}


def test_report_of_time_shows_lateness_and_what_waiting_costs() -> None:
    printed = benchmark_time.text(time_result())
    assert printed.startswith(CONDITIONS)
    row = "| values: 1,000 a second | 4,000 | 1,000 | 1.00 | 10.0 | 13.0 | 0.08 | 1.09 | 16.2 | 0.90 | 12.0 | 1.50 | 120 | 9.50 |"
    assert row in printed
    assert "| 1,000,000 values | 3.29 % | 2.00 % | 337 |" in printed
    assert "| 895 | 8.00 | 18.0 | 10.0 (9.00 to 11.0) |" in printed


@pytest.mark.parametrize(("percent", "found"), [(0, 1), (50, 6), (99, 10), (100, 10)])
def test_percentile_is_one_of_the_values(percent: float, found: float) -> None:
    assert benchmark_time.percentile(range(1, 11), percent) == found


def watch_result() -> dict[str, Any]:
    latency = {"p50": spread(0.5), "p99": spread(2), "p50 ratio": spread(1), "p99 ratio": spread(1)}
    return {
        **FACTS,
        "latency": [{"name": "motia-redis", **latency}],
        "fan-out": [{"watchers": 100, "deliveries": spread(500_000), "without writing": spread(700_000)}],
        "keys": {"one": spread(5), "many": spread(6), "ratio": spread(1.2)},
        "reads": [{"value": "number", "by": "mirror", "read": spread(0.1), "ratio": spread(1.0)}],
    }


def test_report_of_watch_names_the_version_of_the_client_and_of_the_server() -> None:
    result = watch_result()
    result["machine"] = {"redis": "8.1.0"}
    printed = watch.text(result)
    assert printed.startswith("Machine: redis 8.1.0.  \nSettings: redis 8.2.3, ")
    assert "| 100 | 500,000 (450,000 to 550,000) | 700,000 (630,000 to 770,000) |" in printed
    assert "| number | mirror | 0.10 | 1.00 (0.90 to 1.10) |" in printed


def test_report_of_servers_compares_each_with_the_first() -> None:
    figures = {"get, /s": {"redis-8.2": [100.0, 200.0], "valkey-9.1": [150.0, 300.0]}}
    printed = servers.text({**FACTS, "figures": figures})
    assert printed.startswith(CONDITIONS)
    assert "| get, /s | valkey-9.1 | 225 | 188 to 262 | 1.50 |" in printed


def test_capacity_of_a_cluster_is_that_of_its_busiest_primary() -> None:
    met = {"one server": [[10.0], [20.0]], "Cluster": [[4.0, 3.0, 3.0], [8.0, 6.0, 6.0]]}
    missed = {"one server": [[10.0]], "Cluster": [[2.0, 5.0, 3.0]]}
    printed = capacity.text({**FACTS, "figures": {"set": met, "update": missed}})
    assert printed.startswith(CONDITIONS)
    assert "| 1.00 | 0.40 | 2.50 | 2.50 to 2.50 | ≥ 2.50 | yes |" in printed
    assert "| update | 10.0 | 10.0 | 1.00 | 0.50 | 2.00 | 2.00 to 2.00 | ≥ 2.50 | **no** |" in printed


@pytest.mark.skipif(not find_spec("matplotlib"), reason="matplotlib, of the extra bench, is not installed")
@pytest.mark.parametrize(
    ("report", "name", "result"),
    [
        (calls_report, "calls", calls_result()),
        (triggers_report, "triggers", triggers_result()),
        (growth_report, "growth", ROOT / "benchmarks" / "results" / "growth.json"),
        (update_report, "update", ROOT / "benchmarks" / "results" / "update.json"),
    ],
)
def test_every_linked_plot_is_drawn_in_a_light_and_a_dark_variant(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, report: program.Report, name: str, result: Any
) -> None:
    monkeypatch.setattr(plots, "PLOTS", tmp_path)
    report.draw(json.loads(result.read_text()) if isinstance(result, Path) else result, name)
    page = report.pictures(name)
    drawn = sorted(path.name for path in tmp_path.iterdir())
    assert drawn
    assert all(f"plots/{plot}" in page for plot in drawn)
    assert page.count("<picture>") * 2 == len(drawn)


def test_machine_description_names_packages_that_are_not_installed() -> None:
    assert machine.describe(("no-such-package",))["no-such-package"] == "not installed"
