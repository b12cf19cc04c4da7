"""All benchmarks, one after the other, each in a process of its own.

Prints their tables, and on standard error what is going on, after how long, and what comes next. A full run writes README.md,
results/ and plots/; a quick one writes nothing. One that fails does not keep the others from running.
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
  python -m benchmarks --install                        the rivals first: who is not installed is left out
  python -m benchmarks --quick                          the whole picture in two minutes; prints only
  python -m benchmarks                                  all figures; writes README.md, results/ and plots/
  python -m benchmarks --quick --only calls triggers    some of them
  python -m benchmarks.calls --help                     what one of them can do besides
"""


@dataclass(frozen=True, slots=True)
class Part:
    """One benchmark, and about how many seconds it takes on two cores."""

    name: str
    full: int
    quick: int

    def seconds(self, *, quick: bool) -> int:
        """Return how long a run takes, about."""
        return self.quick if quick else self.full


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one benchmark ended, after how many seconds."""

    name: str
    code: int
    seconds: float
    last_line: str

    def __str__(self) -> str:
        ended = "done" if self.code == 0 else f"FAILED with exit code {self.code}: {self.last_line}"
        return f"{self.name:10}{clock(self.seconds):>6}  {ended}"


PARTS = (Part("update", 160, 15), Part("calls", 245, 18), Part("triggers", 325, 46), Part("growth", 260, 25))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; return 1 when any of it failed."""
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
        _progress(start, f"{part.name}, {number} of {len(parts)}; then {following}; about {clock(left)} to go")
        outcomes.append(run(part.name, ["--quick"] if options.quick else [], start))
    _progress(start, "all ended")
    for outcome in outcomes:
        progress(str(outcome))
    return 1 if any(outcome.code for outcome in outcomes) else 0


def run(name: str, flags: Sequence[str], start: float) -> Outcome:
    """Run one benchmark to its end; its tables go where ours do, its progress with the time since `start` before it."""
    began = time.monotonic()
    last_line = ""
    command = [sys.executable, "-m", f"benchmarks.{name}", *flags]
    # A session of its own: Ctrl-C reaches us alone, and then it is ended once, in order.
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
    """Install the rivals that are not there; report those that cannot be, which are left out of the benchmarks then."""
    progress("installing the extra bench")
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
    """Return minutes and seconds."""
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
    parser.add_argument("--quick", action="store_true", help=f"two minutes in place of {minutes}; prints only")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)} (default: all)")
    parser.add_argument("--install", action="store_true", help="install the rivals that are not there; measure nothing")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
