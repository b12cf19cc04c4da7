"""Count the instructions that the server executes in one `set` and one `update`, and in the rivals' scripts.

The server runs under valgrind (callgrind), which counts only inside of EVALSHA and FCALL. Instructions do not depend on other
work of the machine, so that two revisions can be compared on a busy one. They are not time: an instruction that waits for memory
counts as much as any other. Needs valgrind in PATH, and a server with symbols. Streams are not trimmed.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from benchmarks.common import program
from benchmarks.common.server import ServerFailed, find_server
from benchmarks.common.tables import markdown
from benchmarks.updating import documents
from benchmarks.updating.contenders import BareSet, Cjson, Contender, LeanFloor, Ours, OurSet
from motia_redis._store import codec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

EXAMPLES = """examples:
  python -m benchmarks.instructions
  python -m benchmarks.instructions --server /usr/bin/redis-server --sizes 1000 --shapes flat
"""
KINDS: dict[str, type[Contender]] = {"update": Ours, "lean floor": LeanFloor, "cjson": Cjson, "set": OurSet, "bare set": BareSet}
CALLS = 500
_COUNTED = ("evalShaCommand", "fcallCommand")


class CountingServer:
    """A redis-server under callgrind."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self._process = process
        self._folder = folder
        self.socket = str(folder / "redis.sock")
        self.client: Any = redis.Redis(unix_socket_path=self.socket, socket_timeout=60)

    @property
    def version(self) -> str:
        """The server's version."""
        return str(self.client.info("server")["redis_version"])

    def count(self) -> int:
        """Return the instructions since the last call."""
        control = ["callgrind_control", "--dump", str(self._process.pid)]
        subprocess.run(control, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.client.ping()
        total = 0
        for dump in self._folder.glob("counts.*"):
            total += sum(map(int, re.findall(r"^totals: (\d+)", dump.read_text(), re.MULTILINE)))
            dump.unlink()
        return total


@contextmanager
def counting_server(binary: str) -> Iterator[CountingServer]:
    """Run a server under callgrind. Raises ServerFailed if it does not answer."""
    if shutil.which("valgrind") is None:
        raise ServerFailed("valgrind is not installed: apt-get install valgrind")
    with tempfile.TemporaryDirectory(prefix="motia-bench-") as name:
        folder = Path(name)
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/counts"]
        command += [f"--toggle-collect={function}" for function in _COUNTED]
        command += [binary, "--port", "0", "--unixsocket", str(folder / "redis.sock"), "--dir", name, "--save", ""]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            server = CountingServer(process, folder)
            _wait(server.client)
            yield server
        finally:
            process.terminate()
            process.wait()


def _wait(client: Any) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(redis.ConnectionError):
            client.ping()
            return
        time.sleep(0.05)
    raise ServerFailed("redis-server does not answer under valgrind")


def measure(server: CountingServer, value: Any, path: str) -> dict[str, float]:
    """Return the instructions per call of each contender."""
    text = codec.encode(value, subject="benchmark", max_bytes=sys.maxsize)
    counts = {}
    for name, kind in KINDS.items():
        contender = kind(server)
        if isinstance(contender, Ours):
            contender.never_trim()
        contender.prepare(text, {"op": "increment", "path": path, "value": 1})
        contender.run(64)
        contender.reset()
        server.count()
        contender.run(CALLS)
        counts[name] = server.count() / CALLS
    return counts


def main(arguments: Sequence[str] | None = None) -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.instructions",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--server", metavar="PATH", help="redis-server to measure (default: that of the extra `bench`)")
    parser.add_argument("--sizes", default="200,1000,10000", help="sizes of documents in bytes (default %(default)s)")
    parser.add_argument("--shapes", default="flat,nested,records,text", help="shapes of documents (default %(default)s)")
    parser.add_argument("--position", default="middle", choices=documents.POSITIONS, help="of the member (default %(default)s)")
    options = parser.parse_args(arguments)
    rows = []
    with counting_server(options.server or find_server()) as server:
        print(f"Redis {server.version}, or a server that is compatible with it; instructions per call:")
        for size in map(int, options.sizes.split(",")):
            for shape in options.shapes.split(","):
                document = documents.build(shape, size, options.position)
                counts = measure(server, document.value, document.pointer)
                ratios = [f"{counts['update'] / counts[rival]:.2f}" for rival in ("lean floor", "cjson")]
                ratios.append(f"{counts['set'] / counts['bare set']:.2f}")
                rows.append([shape, f"{size:,}", *(f"{count:,.0f}" for count in counts.values()), *ratios])
    print(markdown(("document", "bytes", *KINDS, "update / lean floor", "update / cjson", "set / bare set"), rows))


if __name__ == "__main__":
    sys.exit(program.run(main))
