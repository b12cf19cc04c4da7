"""The embedded server of the tests of this process: it starts with the first use, and leaves nothing behind."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from motia_redis._transport.embedded import LONGEST_SOCKET_PATH, EmbeddedServer

if sys.platform != "win32":
    import fcntl

_PREFIX = "motia-redis-test-"
_NAME = len(f"/{_PREFIX}12345678/redis.sock")
_END_SECONDS = 10.0  # for a server that nobody uses any more to end
_LOOK = 0.005  # seconds between two looks whether it has ended


@dataclass(frozen=True, slots=True)
class _Running:
    server: EmbeddedServer
    process: int  #: the process that started it; a forked child must not stop it


class _Holder:
    """Holds the server of this process."""

    def __init__(self) -> None:
        self.running: _Running | None = None
        self.lock = threading.Lock()
        self.is_registered = False


_holder = _Holder()


def server_url() -> str:
    """Return the URL of an embedded server for the tests of this process, and start it with the first call.

    All tests of the process share it. Each needs a namespace of its own, as `application` gives it one. The server ends with
    `stop_server` or with the process, and its directory is removed. Cost: about 0.1 s in the first call. Raises StateUnavailable
    if no server can be started.
    """
    with _holder.lock:
        if _holder.running is None:
            directory = _make_directory()
            try:
                server = EmbeddedServer.join(directory)
            except BaseException:
                shutil.rmtree(directory, ignore_errors=True)
                raise
            _holder.running = _Running(server, os.getpid())
            if not _holder.is_registered:
                _holder.is_registered = True
                atexit.register(stop_server)
        return _holder.running.server.url


def stop_server() -> None:
    """Stop the server of `server_url`, wait for its end, and remove its directory. Do nothing if none runs."""
    with _holder.lock:
        running, _holder.running = _holder.running, None
    if running is None or running.process != os.getpid():
        return
    directory = running.server.directory
    running.server.leave()
    _wait_for_end(directory / "keeper.lock")
    shutil.rmtree(directory, ignore_errors=True)


def _make_directory() -> Path:
    """Return a new directory whose path is short enough for a socket in it."""
    home = tempfile.gettempdir()
    is_short = len(os.fsencode(home)) + _NAME <= LONGEST_SOCKET_PATH
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=home if is_short else "/tmp"))  # noqa: S108 - mkdtemp makes a private one


def _wait_for_end(keeper_lock: Path) -> None:
    """Wait until the keeper of the server has ended, which holds this lock until the server has."""
    deadline = time.monotonic() + _END_SECONDS
    with keeper_lock.open("rb") as file:
        while time.monotonic() < deadline:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_LOOK)
            else:
                return
