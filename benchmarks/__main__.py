"""Run all benchmarks, one after the other, each in its own process.

Tables go to standard output; progress with elapsed and remaining time goes to standard error. A full run writes README.md,
results/ and plots/. A quick run writes nothing. If one benchmark fails, the others still run.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.common import rivals
from benchmarks.common.program import progress
from benchmarks.common.results import FOLDER
from benchmarks.common.rivals import NotInstalled
from benchmarks.triggering.contenders import ENVIRONMENTS

if TYPE_CHECKING:
    from collections.abc import Sequence

EXAMPLES = """examples:
  python -m benchmarks --install                        install the rivals; a benchmark leaves out rivals that are missing
  python -m benchmarks --quick                          all benchmarks in three minutes; prints only
  python -m benchmarks                                  all benchmarks; writes README.md, results/ and plots/
  python -m benchmarks --quick --only calls triggers    some of the benchmarks
  python -m benchmarks.calls --help                     the options of one benchmark
"""


@dataclass(frozen=True, slots=True)
class Part:
    """One benchmark with its approximate duration in seconds on two cores."""

    name: str
    full: int
    quick: int

    def seconds(self, *, quick: bool) -> int:
        """Return the approximate duration of a run."""
        return self.quick if quick else self.full


@dataclass(frozen=True, slots=True)
class Outcome:
    """Exit code, duration and last progress line of one benchmark."""

    name: str
    code: int
    seconds: float
    last_line: str

    def __str__(self) -> str:
        ended = "done" if self.code == 0 else f"FAILED with exit code {self.code}: {self.last_line}"
        return f"{self.name:10}{clock(self.seconds):>6}  {ended}"


PARTS = (
    Part("update", 160, 12),
    Part("calls", 250, 19),
    Part("triggers", 210, 46),
    Part("growth", 170, 29),
    Part("together", 20, 5),
    Part("time", 115, 21),
    Part("watch", 65, 18),
    Part("sync", 95, 9),
    Part("telemetry", 25, 7),
    Part("servers", 40, 5),
    Part("capacity", 20, 4),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the selected benchmarks; return 1 if one of them failed."""
    options = _options(arguments)
    if options.install:
        install()
        return 0
    parts = [part for part in PARTS if part.name in (options.only or [part.name])]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    start = time.monotonic()
    outcomes = []
    for number, part in enumerate(parts, 1):
        left = sum(later.seconds(quick=options.quick) for later in parts[number - 1 :])
        following = ", ".join(later.name for later in parts[number:]) or "nothing"
        _progress(start, f"{part.name}, {number} of {len(parts)}; then {following}; about {clock(left)} left")
        outcomes.append(run(part.name, ["--quick"] if options.quick else [], start))
    _progress(start, "all benchmarks ended")
    for outcome in outcomes:
        progress(str(outcome))
    return 1 if any(outcome.code for outcome in outcomes) else 0


def run(name: str, flags: Sequence[str], start: float) -> Outcome:
    """Run one benchmark; print its tables, and its progress lines with the time since `start`."""
    began = time.monotonic()
    last_line = ""
    command = [sys.executable, "-m", f"benchmarks.{name}", *flags]
    # A separate session: Ctrl-C reaches only this process, which then terminates the child once.
    with subprocess.Popen(command, cwd=FOLDER.parent, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr
        try:
            for line in process.stderr:
                if message := line.rstrip():
                    _progress(start, f"{name}: {message}")
                    last_line = message
        except BaseException:
            process.terminate()
            raise
    return Outcome(name, process.returncode, time.monotonic() - began, last_line)


def install() -> None:
    """Install missing rivals. Report those that cannot be installed; the benchmarks leave them out."""
    progress("installing the extra `bench`")
    failed = rivals.install_extra()
    for name, environment in ENVIRONMENTS.items():
        try:
            if not environment.installed:
                progress(f"installing {name}, in {environment.folder}")
                environment.install()
        except NotInstalled as reason:
            failed[name] = str(reason)
    for name, why in failed.items():
        progress(f"left out: {name}: {why}")


def clock(seconds: float) -> str:
    """Format a duration as minutes and seconds."""
    return f"{seconds // 60:.0f}:{seconds % 60:02.0f}"


def _progress(start: float, message: str) -> None:
    progress(f"[{clock(time.monotonic() - start)}] {message}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    minutes = round(sum(part.full for part in PARTS) / 60)
    parser.add_argument("--quick", action="store_true", help=f"take three minutes instead of {minutes}; print only")
    parser.add_argument(
        "--only", nargs="+", choices=names, metavar="NAME", help=f"run only these: {', '.join(names)} (default: all)"
    )
    parser.add_argument("--install", action="store_true", help="install missing rivals and exit")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
