"""The benchmark programs run, and publish only what they should."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import __main__ as everything
from benchmarks import time as benchmark_time
from benchmarks.common import program, results, tables
from benchmarks.common.failures import BenchmarkFailed
from benchmarks.common.server import Server, find_server

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.alone

ROOT = Path(__file__).parent.parent.parent.parent
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
#: Those that take a few seconds: each is started by the test that needs it.
SHORT_RUNS = {
    "together": ["--quick", "--rounds", "1"],
    "time": ["--quick", "--divide", "400"],
    "watch": ["--quick", "--rounds", "1"],
    "sync": ["--quick", "--rounds", "1"],
    "telemetry": ["--quick", "--rounds", "1"],
    "growth, steps": ["--quick", "--rounds", "1", "--only", "steps"],
    "growth, expiry": ["--quick", "--rounds", "1", "--only", "expiry"],
    "growth, transactions": ["--quick", "--rounds", "1", "--only", "transactions"],
    "growth, watches": ["--quick", "--rounds", "1", "--only", "watches"],
    "growth, telemetry": ["--quick", "--rounds", "1", "--only", "telemetry"],
    "growth, handling": ["--quick", "--rounds", "1", "--only", "handling"],
    "growth, falling due": ["--quick", "--rounds", "1", "--only", "falling due"],
    "growth, transactions, keys": ["--quick", "--rounds", "1", "--only", "transactions, keys"],
    "growth, telemetry, steps": ["--quick", "--rounds", "1", "--only", "telemetry, steps"],
    "servers": ["--quick", "--rounds", "1"],
    "capacity": ["--quick", "--rounds", "1"],
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
        if name not in self._processes:
            self._processes[name] = self._start(name, SHORT_RUNS[name])
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


def test_update_prints_ratios(runs: Runs) -> None:
    printed, _ = runs.output("update")
    assert printed.startswith("Machine: cpu ")
    assert "| nested | 191 | front |" in printed


def test_calls_reports_rivals_that_cannot_be_imported_as_left_out(runs: Runs) -> None:
    printed, progress = runs.output("calls")
    for rival in ("coredis", "valkey-glide"):
        words = f"Left out: {rival}: not installed (broken for a test)."
        assert words in printed
        assert words.lower().rstrip(".") in progress
        assert f"| {rival} |" not in printed
    assert "| get | Unix, " in printed
    assert "| contended increment | Unix, " in printed
    assert "values of 200 bytes in Redis: ours, just written" in printed


def test_triggers_without_rivals_measures_ours_and_the_bare_loop(runs: Runs) -> None:
    printed, _ = runs.output("triggers")
    assert "Rivals: none." in printed
    assert "| one worker handles 30,000 events a second |" in printed
    assert "| bare loop | " in printed
    assert "| two workers / one worker | 200 |" in printed
    assert "\n| 20 | 60 |" in printed


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("together", "| 50 | reads | redis-py, HMGET |"),
        ("time", "| values: 250 at the same time | 250 |"),
        ("watch", "| watchers of a scope | deliveries a second |"),
        ("watch", "| object | redis-py, HGET |"),
        ("sync", "| get | 64 | redis-py, orjson |"),
        ("telemetry", "| handled event | handler spans |"),
        ("servers", "| values due, /s | redis-"),
        ("capacity", "| event, one step |"),
    ],
)
def test_program_prints_its_tables(runs: Runs, name: str, line: str) -> None:
    assert line in runs.output(name)[0]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("growth", "| list, µs per item |"),
        ("growth, scopes", "| list_groups, whole call, µs |"),
        ("growth, steps", "| set, server, µs |"),
        ("growth, expiry", "| set with ttl, µs |"),
        ("growth, transactions", "| transaction, µs per item |"),
        ("growth, watches", "| set and delivery to all, µs per watch |"),
        ("growth, telemetry", "| scrape, µs |"),
        ("growth, handling", "| write and handle, µs per step and event |"),
        ("growth, falling due", "| set and fall due, server, µs |"),
        ("growth, transactions, keys", "| transaction, µs per item |"),
        ("growth, telemetry, steps", "| scrape, server, µs |"),
    ],
)
def test_growth_prints_costs_by_size(runs: Runs, name: str, line: str) -> None:
    assert line in runs.output(name)[0]


def test_growth_prints_rates_by_number_of_processes(runs: Runs) -> None:
    assert "| events handled per second |" in runs.output("growth, workers")[0]


def options(*arguments: str) -> argparse.Namespace:
    return program.read_options(program.new_parser("calls", None, "", rounds=7, quick="less"), arguments)


def test_only_runs_with_default_settings_are_published() -> None:
    assert options().publish
    assert options("--no-plot", "--server", "/usr/bin/redis-server").publish
    assert not options("--quick").publish
    assert not options("--rounds", "7").publish


def test_quick_run_has_five_rounds_by_default() -> None:
    assert (options().rounds, options("--quick").rounds, options("--quick", "--rounds", "1").rounds) == (7, 5, 1)


def test_program_without_rounds_has_no_such_option(capsys: pytest.CaptureFixture[str]) -> None:
    parser = program.new_parser("time", None, "", rounds=None, quick="less")
    assert program.read_options(parser, []).publish
    assert not program.read_options(parser, ["--quick"]).publish
    with pytest.raises(SystemExit):
        program.read_options(parser, ["--rounds", "2"])
    assert "unrecognized arguments: --rounds 2" in capsys.readouterr().err


def test_time_fails_if_something_did_not_happen() -> None:
    kind = benchmark_time.Kind("values", benchmark_time.write_values, lambda _: False, lambda _: iter([(1, 1)]))  # one event
    with Server(find_server()) as server, pytest.raises(BenchmarkFailed, match="values, 2 at the same time: 1 of 2 happened"):
        benchmark_time.measure_rate(server, kind, benchmark_time.Setting(0, 2))


class Made:
    """A report of a made-up benchmark."""

    def text(self, result: dict[str, Any]) -> str:
        return f"figure {result['figure']}"

    def draw(self, result: dict[str, Any], name: str) -> None:
        raise AssertionError("not with --no-plot")

    def pictures(self, name: str) -> str:
        raise AssertionError("not with --no-plot")


@pytest.mark.parametrize(("server", "section"), [(None, "calls"), ("/usr/bin/redis-server", "calls-redis-7.0")])
def test_figures_are_published_in_the_section_of_the_measured_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str | None, section: str
) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n<!-- {section}:begin -->\nold\n<!-- {section}:end -->\nafter\n")
    monkeypatch.setattr(results, "README", page)
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    chosen = argparse.Namespace(server=server, no_plot=True)
    program.publish(Made(), "calls", {"figure": 3}, "redis-7.0", chosen)
    assert page.read_text() == f"before\n<!-- {section}:begin -->\n\nfigure 3\n\n<!-- {section}:end -->\nafter\n"
    assert json.loads((tmp_path / f"{section}.json").read_text())["figure"] == 3


def test_figures_are_not_written_if_the_page_has_no_section_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "README.md"
    page.write_text("nothing\n")
    monkeypatch.setattr(results, "README", page)
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    program.publish(Made(), "calls", {"figure": 3}, "redis-8.2", argparse.Namespace(server=None, no_plot=True))
    assert list(tmp_path.iterdir()) == [page]
    assert "no section calls" in capsys.readouterr().err


def test_every_part_has_a_section_and_all_of_them_take_as_long_as_the_page_says() -> None:
    page = results.README.read_text()
    for part in everything.PARTS:
        assert tables.has(results.README, part.name)
        assert f"| [`{part.name}`](#{part.name}-" in page
    assert sum(part.full for part in everything.PARTS) < 25 * 60
    assert sum(part.quick for part in everything.PARTS) < 3 * 60
    assert "run all benchmarks: under 25 minutes" in page
    assert "all benchmarks in three minutes" in page


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
def test_failed_benchmark_is_reported_and_the_others_still_run(capfd: pytest.CaptureFixture[str]) -> None:
    assert everything.main(["--quick"]) == 1
    printed = capfd.readouterr()
    assert printed.out == "| table |\n"
    assert "[0:00] bad, 1 of 2; then good; about 0:15 left\n" in printed.err
    assert "good: at work\n" in printed.err
    failed, done = printed.err.splitlines()[-2:]
    assert failed.startswith("bad ")
    assert failed.endswith("FAILED with exit code 1: no server")
    assert done.startswith("good ")
    assert done.endswith("done")


@pytest.mark.usefixtures("made_up")
def test_only_option_runs_the_named_benchmarks(capfd: pytest.CaptureFixture[str]) -> None:
    assert everything.main(["--only", "good"]) == 0
    assert "good, 1 of 1; then nothing; about 1:40 left" in capfd.readouterr().err


@pytest.mark.parametrize("server", ["/bin/false", "/no/such/server"])
def test_server_that_does_not_start_gives_one_line_and_exit_code_1(server: str) -> None:
    command = [sys.executable, "-m", "benchmarks.growth", "--quick", "--server", server]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("redis-server did not start: ")
    assert done.stderr.count("\n") == 1
