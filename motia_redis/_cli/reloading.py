"""Run `run`, `serve` or `worker` again when a Python file of the application changes."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from motia_redis._cli.options import EXIT_ERROR, CommandError, one_line_errors
from motia_redis._steps.faults import escaped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

_MOST_NAMED = 5  # changed files in one line
_OPTION = "--reload"
_KILL_AFTER = 5.0  # seconds behind the grace time


def reload_on_change(app: Sequence[str], grace: float) -> None:
    """Run this command without `--reload` in a process of its own, and again after each change, until a signal."""
    with one_line_errors():
        try:
            import watchfiles  # noqa: PLC0415 - optional
        except ImportError:
            raise CommandError("--reload needs the package watchfiles: pip install 'motia-redis[reload]'") from None
        folders = sorted({folder.resolve() for target in app for folder in _folders(target)})
        supervisor = _Supervisor(grace)
        supervisor.start()
        _tell(f"watching Python files in {', '.join(map(str, folders))}")
        changes = watchfiles.watch(
            *folders,
            watch_filter=watchfiles.PythonFilter(),
            stop_event=supervisor.stopped,
            raise_interrupt=False,
            rust_timeout=500,
            yield_on_timeout=True,  # to see that the process has ended
        )
        _follow(changes, supervisor)
        sys.exit(supervisor.end())


def _follow(batches: Iterator[set[Any]], supervisor: _Supervisor) -> None:
    for batch in batches:
        if supervisor.stopped.is_set():
            return
        if batch:
            names = sorted({_shown(path) for _, path in batch})
            more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
            _tell(f"changed: {', '.join(names[:_MOST_NAMED])}{more}; starting again")
            supervisor.restart()
        else:
            supervisor.look()


class _Supervisor:
    """Run the command in a process, and pass on the signals that end it."""

    def __init__(self, grace: float) -> None:
        self.stopped = threading.Event()
        self._grace = grace
        self._process: subprocess.Popen[bytes] | None = None
        self._is_told = False
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._handle)

    def start(self) -> None:
        """Start the process."""
        end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
        arguments = [word for index, word in enumerate(sys.argv[1:], 1) if index > end or word != _OPTION]
        self._is_told = False
        self._process = subprocess.Popen([sys.executable, "-m", "motia_redis", *arguments])  # noqa: S603 - this command

    def look(self) -> None:
        """Say that the process has ended by itself, once."""
        if self._process is not None and self._process.poll() is not None and not self._is_told:
            self._is_told = True
            _tell(f"the process has ended with exit code {self._process.returncode}; waiting for a change")

    def restart(self) -> None:
        """End the process as a signal does, and start it again."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._wait()
        if not self.stopped.is_set():
            self.start()

    def end(self) -> int:
        """Wait for the process to end, after a signal, and return its exit code."""
        return self._wait()

    def _wait(self) -> int:
        if self._process is None:
            return EXIT_ERROR
        try:
            code = self._process.wait(self._grace + _KILL_AFTER)
        except subprocess.TimeoutExpired:  # it ends itself after its grace time, unless it is stopped
            self._process.kill()
            code = self._process.wait()
        return code if code >= 0 else 128 - code

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        self.stopped.set()
        # A terminal sends Ctrl-C to both processes; a second signal would end the process at once.
        if self._process is not None and not (signum == signal.SIGINT and _is_at_terminal()):
            with suppress(ProcessLookupError):
                self._process.send_signal(signum)


def _is_at_terminal() -> bool:
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError, AttributeError):
        return False


def _folders(target: str) -> list[Path]:
    """Return the folders whose files an application consists of. What cannot be found is said by the process itself."""
    path = Path(target)
    if path.is_dir():
        return [path]
    if path.suffix == ".py" or path.exists():
        return [path.parent] if path.parent.is_dir() else [Path.cwd()]
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        spec = importlib.util.find_spec(target.partition(".")[0])
    except (ImportError, ValueError):
        spec = None
    if spec is not None and spec.submodule_search_locations:
        return [Path(folder) for folder in spec.submodule_search_locations]
    return [Path(spec.origin).parent] if spec is not None and spec.origin and Path(spec.origin).exists() else [Path.cwd()]


def _shown(path: str) -> str:
    with suppress(ValueError):
        return str(Path(path).relative_to(Path.cwd()))
    return path


def _tell(text: str) -> None:
    click.echo(f"motia-redis: {escaped(text)}", err=True)
