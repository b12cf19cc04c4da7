"""The command line of the fuzzer: `python -m tests.fuzzing --help`."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.fuzzing.cases import Case
from tests.fuzzing.failures import try_case
from tests.fuzzing.loop import fuzz
from tests.fuzzing.runner import Runner
from tests.support.servers import RedisServer, all_servers

if TYPE_CHECKING:
    from tests.fuzzing.failures import Failure
    from tests.fuzzing.loop import Tally


class _Progress:
    """Prints the progress to stderr about once a second, and decides when the run ends."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._start = self._shown = time.monotonic()

    def goes_on(self, tally: Tally) -> bool:
        """Return whether to run another batch."""
        now = time.monotonic()
        if now - self._shown >= 1:
            self._shown = now
            self.show(tally)
        if len(tally.failures) >= self._options.stop_after:
            return False
        if self._options.seconds is not None:
            return bool(now - self._start < self._options.seconds)
        return bool(tally.cases < self._options.cases)

    def show(self, tally: Tally) -> None:
        """Print the counts and the rate."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        share = tally.accepted / max(tally.cases, 1)
        print(
            f"{tally.cases:,} cases, {tally.cases / seconds:,.0f}/s, {share:.0%} accepted, {tally.too_long} too long, "
            f"{len(tally.failures)} mismatches",
            file=sys.stderr,
            flush=True,
        )


def _print_failure(failure: Failure, directory: Path) -> None:
    path = failure.save(directory)
    print(f"MISMATCH: {failure.found}")
    print(f"  text:       {failure.case.text!r:.500}\n  operations: {failure.case.operations!r:.500}")
    print(f"  strict:     {failure.case.strict}   ttl: {failure.case.ttl}\n  expected:   {failure.expected():.500}")
    print(f"  replay:     python -m tests.fuzzing --replay {path}", flush=True)


async def _main(options: argparse.Namespace, url: str) -> int:
    async with Runner(url) as runner:
        if options.replay:
            failed = await try_case(runner, Case.from_json(json.loads(options.replay.read_text())))
            print(f"MISMATCH: {failed.found}\nexpected: {failed.expected()}" if failed else "as expected")
            return 1 if failed else 0
        progress = _Progress(options)
        tally = await fuzz(
            runner, options.seed, goes_on=progress.goes_on, on_failure=lambda failure: _print_failure(failure, options.save)
        )
        progress.show(tally)
        return 1 if tally.failures else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzzing",
        description="Run random updates on a redis-server and compare the results with an independent model. "
        "The exit code is 1 if there is a mismatch.",
        epilog="Example: python -m tests.fuzzing --cases 200000 --seed 7 --server valkey-9.1 --save failing",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--cases", type=int, default=20_000, help="number of cases to run (default: %(default)s)")
    length.add_argument("--seconds", type=float, help="run for this time instead of a number of cases")
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="the same seed gives the same cases (default: %(default)s)",
    )
    parser.add_argument(
        "--save", type=Path, default=Path("failing"), metavar="DIR", help="folder for failing cases (default: %(default)s)"
    )
    parser.add_argument("--stop-after", type=int, default=10, metavar="N", help="stop after N mismatches (default: %(default)s)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run only the case saved in FILE")
    parser.add_argument(
        "--server", choices=all_servers(), default="default", help="run on this server of the environment (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    program = all_servers()[options.server]
    with tempfile.TemporaryDirectory() as directory, RedisServer(Path(directory), program=program) as server:
        return asyncio.run(_main(options, server.url))


if __name__ == "__main__":
    sys.exit(main())
