"""The benchmarks run: a benchmark that broke with the code it measures is found here, not when its figures are wanted."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import __main__ as everything
from benchmarks import triggers
from benchmarks.calling import goals as calls_goals
from benchmarks.calling import report as calls_report
from benchmarks.common import machine, plots, program, results, rivals, tables
from benchmarks.common.goals import Verdict
from benchmarks.common.rivals import Environment, NotInstalled
from benchmarks.common.rounds import Spread, alternate, ratio
from benchmarks.growing import report as growth_report
from benchmarks.growing.series import Line, Series
from benchmarks.triggering import goals as triggers_goals
from benchmarks.triggering import report as triggers_report
from benchmarks.triggering.field import RIVALS
from benchmarks.updating import report as update_report

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.alone

ROOT = Path(__file__).parent.parent.parent
RUN_SECONDS = 120
#: Every part of every benchmark, once, as small as it can be; no rivals but those of calls, which break when they are imported.
RUNS = {
    "update": ["--quick", "--rounds", "1", "--sizes", "200", "--no-plot"],
    "calls": ["--quick", "--rounds", "1", "--seconds", "0.005"],
    "triggers": ["--quick", "--rounds", "1", "--events", "200", "--rivals"],
    "growth": ["--quick", "--rounds", "1", "--only", "keys"],
    "growth, scopes": ["--quick", "--rounds", "1", "--only", "scopes"],
    "growth, workers": ["--quick", "--rounds", "1", "--only", "workers"],
}
BROKEN = ("coredis", "glide")


class Runs:
    """The benchmarks, all started at once, so that the tests wait for the longest rather than for each."""

    def __init__(self, folder: Path) -> None:
        for package in BROKEN:
            (folder / f"{package}.py").write_text("raise ImportError('broken for a test')\n")
        self._folder = folder
        self._processes = {name: self._start(name, flags) for name, flags in RUNS.items()}

    def output(self, name: str) -> tuple[str, str]:
        """Return what a benchmark printed, on standard output and on standard error."""
        code = self._processes[name].wait(RUN_SECONDS)
        tables, progress = ((self._folder / f"{name}.{stream}").read_text() for stream in ("out", "err"))
        assert code == 0, progress
        return tables, progress

    def stop(self) -> None:
        for process in self._processes.values():
            process.terminate()
            process.wait(10)

    def _start(self, name: str, flags: list[str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"benchmarks.{name.partition(',')[0]}", *flags]
        environment = {**os.environ, "PYTHONPATH": str(self._folder)}
        with (self._folder / f"{name}.out").open("wb") as out, (self._folder / f"{name}.err").open("wb") as err:
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=err)


def published() -> dict[Path, bytes]:
    folder = ROOT / "benchmarks"
    found = [folder / "README.md", *(folder / "results").iterdir(), *(folder / "plots").iterdir()]
    return {path: path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    before = published()
    started = Runs(tmp_path_factory.mktemp("benchmarks"))
    try:
        yield started
    finally:
        started.stop()
    assert published() == before, "a quick run rewrites nothing"


def test_the_update_benchmark_prints_ratios(runs: Runs) -> None:
    printed, _ = runs.output("update")
    assert printed.startswith("Machine: cpu ")
    assert "| nested | 191 | front |" in printed


def test_the_calls_benchmark_leaves_out_rivals_that_cannot_be_imported_and_says_so(runs: Runs) -> None:
    printed, progress = runs.output("calls")
    for rival in ("coredis", "valkey-glide"):
        words = f"Left out: {rival}: not installed (broken for a test)."
        assert words in printed
        assert words.lower().rstrip(".") in progress
        assert f"| {rival} |" not in printed
    assert "| get | Unix, " in printed
    assert "| contended increment | Unix, " in printed
    assert "values of 200 bytes in Redis: ours, just written" in printed


def test_the_triggers_benchmark_measures_ours_and_the_bare_loop_without_any_rival(runs: Runs) -> None:
    printed, _ = runs.output("triggers")
    assert "Rivals: none." in printed
    assert "| one worker handles 30,000 events a second |" in printed
    assert "| bare loop | " in printed
    assert "| two workers against one | 200 |" in printed
    assert "\n| 20 | 60 |" in printed


@pytest.mark.parametrize(
    ("name", "line"), [("growth", "| list, µs per item |"), ("growth, scopes", "| list_groups, whole call, µs |")]
)
def test_the_growth_benchmark_prints_costs_by_size(runs: Runs, name: str, line: str) -> None:
    assert line in runs.output(name)[0]


def test_the_growth_benchmark_prints_rates_by_processes(runs: Runs) -> None:
    assert "| events handled per second |" in runs.output("growth, workers")[0]


def options(*arguments: str) -> argparse.Namespace:
    return program.read_options(program.new_parser("calls", None, "", rounds=7, quick="less"), arguments)


def test_only_a_run_of_the_defaults_is_published() -> None:
    assert options().publish
    assert options("--no-plot", "--server", "/usr/bin/redis-server").publish
    assert not options("--quick").publish
    assert not options("--rounds", "7").publish


def test_a_quick_run_has_as_many_rounds_as_a_median_needs() -> None:
    assert (options().rounds, options("--quick").rounds, options("--quick", "--rounds", "1").rounds) == (7, 5, 1)


class Made:
    """A report of a made-up benchmark."""

    def text(self, result: dict[str, Any]) -> str:
        return f"figure {result['figure']}"

    def draw(self, result: dict[str, Any], name: str) -> None:
        raise AssertionError("not with --no-plot")

    def pictures(self, name: str) -> str:
        raise AssertionError("not with --no-plot")


@pytest.mark.parametrize(("server", "section"), [(None, "calls"), ("/usr/bin/redis-server", "calls-redis-7.0")])
def test_figures_go_into_the_section_of_their_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str | None, section: str
) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n<!-- {section}:begin -->\nold\n<!-- {section}:end -->\nafter\n")
    monkeypatch.setattr(results, "README", page)
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    chosen = argparse.Namespace(server=server, no_plot=True)
    program.publish(Made(), "calls", {"figure": 3}, "7.0.15", chosen)
    assert page.read_text() == f"before\n<!-- {section}:begin -->\n\nfigure 3\n\n<!-- {section}:end -->\nafter\n"
    assert json.loads((tmp_path / f"{section}.json").read_text())["figure"] == 3


def test_figures_without_a_section_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "README.md"
    page.write_text("nothing\n")
    monkeypatch.setattr(results, "README", page)
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    program.publish(Made(), "calls", {"figure": 3}, "8.2.3", argparse.Namespace(server=None, no_plot=True))
    assert list(tmp_path.iterdir()) == [page]
    assert "no section calls" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["update", "update-redis-7.0", "calls", "triggers", "growth"])
def test_the_page_has_a_section_for_every_benchmark(name: str) -> None:
    assert tables.has(results.README, name)


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("*.json")), ids=lambda path: path.stem)
def test_the_tables_of_the_page_are_those_of_the_result_file(path: Path) -> None:
    reports = {"update": update_report, "calls": calls_report, "triggers": triggers_report, "growth": growth_report}
    result = json.loads(path.read_text())
    assert result["benchmark"] == path.stem
    assert reports[path.stem.partition("-")[0]].text(result).strip() in results.README.read_text()


# The whole suite


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Benchmarks `good` and `bad` in place of ours."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").touch()
    for name, code in {
        "good": "import sys; print('| table |'); print('at work', file=sys.stderr)",
        "bad": "import sys; sys.exit('no server')",
    }.items():
        (tmp_path / "benchmarks" / f"{name}.py").write_text(code)
    monkeypatch.setattr(everything, "FOLDER", tmp_path / "benchmarks")
    monkeypatch.setattr(everything, "PARTS", (everything.Part("bad", 60, 5), everything.Part("good", 100, 10)))
    monkeypatch.setattr(everything.signal, "signal", lambda *_: None)


@pytest.mark.usefixtures("made_up")
def test_a_benchmark_that_fails_is_reported_at_the_end_and_the_others_go_on(capfd: pytest.CaptureFixture[str]) -> None:
    assert everything.main(["--quick"]) == 1
    printed = capfd.readouterr()
    assert printed.out == "| table |\n"
    assert "[0:00] bad, 1 of 2; then good; about 0:15 to go\n" in printed.err
    assert "good: at work\n" in printed.err
    failed, done = printed.err.splitlines()[-2:]
    assert failed.startswith("bad ")
    assert failed.endswith("FAILED with exit code 1: no server")
    assert done.startswith("good ")
    assert done.endswith("done")


@pytest.mark.usefixtures("made_up")
def test_only_what_was_asked_for_is_run(capfd: pytest.CaptureFixture[str]) -> None:
    assert everything.main(["--only", "good"]) == 0
    assert "good, 1 of 1; then nothing; about 1:40 to go" in capfd.readouterr().err


# Rivals


def test_a_rival_whose_environment_is_missing_is_left_out_and_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rivals, "FOLDER", tmp_path)
    field, left_out = triggers._field(["huey"], quick=True)
    assert [contender.name for contender in field] == ["ours", "bare loop"]
    assert left_out == {"huey": "not installed: huey redis hiredis"}
    assert "left out: huey: not installed: huey redis hiredis" in capsys.readouterr().err


def test_an_environment_that_cannot_be_made_says_why_and_does_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rivals, "FOLDER", tmp_path)
    environment = Environment("impossible", ("no-such-package",))
    (environment.folder / "bin").mkdir(parents=True)
    monkeypatch.setattr(rivals.sys, "executable", "/bin/false")
    with pytest.raises(NotInstalled, match="cannot be installed: it said nothing"):
        environment.install()
    assert not environment.installed


def test_an_environment_made_for_other_requirements_does_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rivals, "FOLDER", tmp_path)
    (tmp_path / "huey").mkdir()
    (tmp_path / "huey" / "requirements.txt").write_text("huey\nredis\n")
    assert Environment("huey", ("huey", "redis")).installed
    assert not Environment("huey", ("huey", "redis", "hiredis")).installed


def test_rivals_that_cannot_be_installed_are_reported_and_the_others_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pip(_: Path, *requirements: str) -> None:
        if any(requirement.startswith("valkey-glide") for requirement in requirements):
            raise NotInstalled("cannot be installed: no wheel")
        installed.extend(requirements)

    installed: list[str] = []
    monkeypatch.setattr(rivals, "_pip_install", pip)
    monkeypatch.setattr(everything, "ENVIRONMENTS", {})
    everything.install()
    assert any(requirement.startswith("coredis") for requirement in installed)
    assert "valkey-glide>=2.6: cannot be installed: no wheel" in capsys.readouterr().err


# What is made of figures


def test_contenders_take_turns_and_start_in_turn() -> None:
    order: list[str] = []
    figures = alternate({name: lambda name=name: order.append(name) or 1.0 for name in "abc"}, 2)
    assert "".join(order) == "abcbca"
    assert figures == {"a": [1.0, 1.0], "b": [1.0, 1.0], "c": [1.0, 1.0]}


def test_a_ratio_is_taken_round_by_round() -> None:
    assert ratio([1, 20, 3], [2, 40, 6]) == Spread(0.5, 0.5, 0.5)


def test_verdicts_are_met_at_the_limit() -> None:
    assert Verdict(2.0, 2.0).met
    assert Verdict(2.0, 2.0, at_least=True).met
    assert not Verdict(2.1, 2.0).met
    assert not Verdict(1.9, 2.0, at_least=True).met
    assert (Verdict(4.0, 2.0).distance, Verdict(1.0, 2.0, at_least=True).distance) == (2.0, 2.0)


@pytest.mark.parametrize("server", ["/bin/false", "/no/such/server"])
def test_a_server_that_does_not_start_is_one_line_and_exit_code_1(server: str) -> None:
    command = [sys.executable, "-m", "benchmarks.growth", "--quick", "--server", server]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("redis-server did not start: ")
    assert done.stderr.count("\n") == 1


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


def test_the_report_of_calls_tells_goals_met_and_missed() -> None:
    printed = calls_report.text(calls_result())
    assert printed.startswith(CONDITIONS)
    assert "| `get`, one at a time: time, of redis-py's | Unix, uvloop | 0.90 times | ≤ 1.00 times | yes |" in printed
    assert "| `get` by 64 tasks: rate, of redis-py's | Unix, uvloop | 5.00 times | ≥ 6.00 times | **0 of 1** |" in printed
    assert "| 70.0 ms | ≤ 60.0 ms | **0 of 1** |" in printed
    assert (
        "| get | Unix, uvloop | redis-py | 90.0 (81.0 to 99.0) | 100 (90.0 to 110) | 0.90 (0.81 to 0.99) | ≤ 1.00 | yes |"
        in printed
    )
    assert "100,000 (90,909 to 111,111)" in printed


def test_a_goal_against_several_rivals_is_judged_by_the_fastest() -> None:
    rows = {row.goal: row for row in calls_goals.table(calls_result())}
    row = rows["`get` by 64 tasks: rate, of the better of coredis and valkey-glide"]
    assert (row.where, row.farthest.figure, row.met) == ("Unix, uvloop, valkey-glide", 2.5, 1)


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
        "drains": [drained("ours", 40_000), drained("bare loop", 90_000, one_by_one=False), drained("huey", 5000)],
        "latencies": [
            {"name": name, "p50": spread(0.5), "p99": spread(1.0), "ratio": {"p50": spread(1.2), "p99": spread(0.8)}}
            for name in ("ours", "bare loop", "huey")
        ],
        "workers": {"events": 1000, "one": spread(40_000), "two": spread(72_000), "ratio": spread(1.8)},
        "condition": {"events": 1000, "without": spread(40_000), "with": spread(60_000), "ratio": spread(1.5)},
        "steps": [{"steps": steps, "events": 300, "cost": spread(20), "ratio": spread(1.0)} for steps in (1, 5, 20)],
        "server time": {"events": 1000, "ours": times, "bare loop": times, "ratio": {part: spread(1.0) for part in times}},
    }


def test_the_report_of_triggers_tells_goals_met_and_missed() -> None:
    printed = triggers_report.text(triggers_result())
    assert printed.startswith(CONDITIONS.replace("Settings", "Rivals: huey 3.0.  \nSettings"))
    assert "| one worker handles 30,000 events a second | 40,000 | ≥ 30,000 | yes |" in printed
    assert "| 10 times the best rival that delivers one by one (huey) | 8.00 | ≥ 10.0 | **no** |" in printed
    assert "| latency, p50: at most the best rival's (huey) | 1.20 | ≤ 1.00 | **no** |" in printed
    assert "| two workers against one | 1,000 | 40,000 | 72,000 | 1.80 | 1.62 to 1.98 |" in printed


def test_triggers_without_rivals_or_on_an_old_server_have_fewer_goals() -> None:
    result = triggers_result()
    every = set(triggers_goals.judge(result))
    for section in ("drains", "latencies"):
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


def test_the_report_of_growth_names_what_grows_faster_than_it_must() -> None:
    printed = growth_report.text(growth_result())
    assert printed.startswith(CONDITIONS)
    assert "2 of 3 grow no faster than they must; faster: list over keys per scope." in printed
    assert "| get, µs | 50.0 | 50.0 | 50.0 | 0.00 | 0 | no |" in printed
    assert "| list, µs | 10.0 | 100 | 1,000 | 1.00 | 0 | **yes** |" in printed
    assert "filling: 2 s." in printed


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
def test_every_plot_that_a_page_links_is_drawn_for_light_and_dark_pages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, report: program.Report, name: str, result: Any
) -> None:
    monkeypatch.setattr(plots, "PLOTS", tmp_path)
    report.draw(json.loads(result.read_text()) if isinstance(result, Path) else result, name)
    page = report.pictures(name)
    drawn = sorted(path.name for path in tmp_path.iterdir())
    assert drawn
    assert all(f"plots/{plot}" in page for plot in drawn)
    assert page.count("<picture>") * 2 == len(drawn)


def test_a_machine_names_packages_that_are_not_there() -> None:
    assert machine.describe(("no-such-package",))["no-such-package"] == "not installed"


def test_every_player_of_a_rival_is_there() -> None:
    folder = ROOT / "benchmarks" / "triggering" / "players"
    assert all((folder / f"{rival.player}.py").exists() for rival in RIVALS)
