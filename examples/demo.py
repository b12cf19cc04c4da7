"""Run one HTTP process and two workers that share state through an embedded Redis, and check every number.

The demo creates users over HTTP, logs them in from concurrent clients, waits for the triggers and prints a table. The exit
code is 1 if a number is wrong. All processes that the demo starts end before it ends.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motia_redis import StateManager

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).parent
APPLICATION = [str(EXAMPLES / "users.py"), str(EXAMPLES / "audit_step.py")]
DEADLINE = 60.0  # seconds: limit of each wait


class DemoError(Exception):
    """A process or a request of the demo failed."""


class Process:
    """One `motia-redis` process, which logs to a file."""

    def __init__(self, name: str, directory: Path, *arguments: str) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        with self.log.open("wb") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "motia_redis", *arguments], stdout=log, stderr=log, cwd=directory
            )

    def wait_for_line(self, start: str) -> str:
        """Wait for a line of the log that begins with `start`; return it."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end and self.popen.poll() is None:
            for line in self.log.read_text().splitlines():
                if line.startswith(start):
                    return line
            time.sleep(0.02)
        raise DemoError(f"{self.name} is not ready; its log is:\n{self.log.read_text()}")

    def stop(self) -> int:
        """Send SIGTERM, wait until the process ends, and return its exit code. Kill it after the deadline."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
        try:
            return self.popen.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.wait()


class Client:
    """One HTTP connection."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)

    def post(self, path: str, body: Any = None) -> Any:
        """Send JSON and return the JSON of the response. Raise DemoError unless the status is 200 or 201."""
        self.connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        response = self.connection.getresponse()
        text = response.read()
        if response.status not in (200, 201):
            raise DemoError(f"POST {path}: {response.status} {text[:200]!r}")
        return json.loads(text)


def drive(port: int, users: int, logins: int, clients: int) -> Counter[str]:
    """Create the users, log them in from several clients at the same time, and return the number of logins of each user."""
    client = Client(port)
    ids = [client.post("/users", {"name": f"User {n}", "email": f"user{n}@example.com"})["id"] for n in range(users)]
    sent = [ids[n % users] for n in range(logins)]

    def work(part: list[str]) -> None:
        own = Client(port)
        for user in part:
            own.post(f"/users/{user}/login")

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(work, [sent[n::clients] for n in range(clients)]))
    return Counter(sent)


async def watch(url: str, logins: int) -> tuple[dict[str, int], Counter[str], Counter[str]]:
    """Wait until the triggers have handled all logins.

    Return the login count of each user, and the trigger firings and the messages of each process.
    """
    async with StateManager(url) as state:
        end = time.monotonic() + DEADLINE
        shown = -1
        while True:
            firings: Counter[str] = Counter()
            for login in await state.list("demo.firings"):
                firings[login["process"]] += login["firings"]
            consumed = Counter({count["process"]: count["messages"] for count in await state.list("demo.consumed")})
            if consumed.total() != shown:
                shown = consumed.total()
                print(f"  triggers fired {firings.total()}, messages consumed {shown} of {logins}", flush=True)
            if (firings.total() >= logins and shown >= logins) or time.monotonic() > end:
                counts = {user["id"]: user["login_count"] for user in await state.list("users")}
                return counts, firings, consumed
            await asyncio.sleep(0.2)


@contextlib.contextmanager
def processes(directory: Path, url: str) -> Iterator[list[Process]]:
    """Start the HTTP process and two workers. Leaving `with` stops them."""
    common = ["--redis", url, "--log-level", "warning"]
    started: list[Process] = []
    try:
        started.append(Process("http", directory, "serve", *APPLICATION, *common, "--port", "0"))
        started += [Process(f"worker{n}", directory, "worker", *APPLICATION, *common) for n in (1, 2)]
        yield started
    finally:
        for process in started:
            process.stop()


def print_row(label: str, number: object, expected: object = None) -> bool:
    """Print a row of the table; return whether the number is the expected one."""
    good = expected is None or number == expected
    result = "" if expected is None else "ok" if good else f"WRONG: expected {expected}"
    print(f"  {label:<44}{number!s:>8}  {result}".rstrip())
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=10, help="number of users (default: %(default)s)")
    parser.add_argument("--logins", type=int, default=400, help="number of logins of all users together (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=8, help="number of concurrent HTTP clients (default: %(default)s)")
    arguments = parser.parse_args()
    # Settings of the shell are for other applications. The demo uses its own Redis.
    for name in ("MOTIA_REDIS_URL", "MOTIA_REDIS_NAMESPACE"):
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory(prefix="motia-demo-") as folder:
        directory = Path(folder)
        url = f"embedded://{directory / 'redis'}"
        print("Starting an embedded Redis, one HTTP process and two workers ...", flush=True)
        with processes(directory, url) as started:
            port = int(started[0].wait_for_line("motia-redis: serving").split("(")[0].strip().rpartition(":")[2])
            for worker in started[1:]:
                worker.wait_for_line("motia-redis: worker ready")
            load = f"{arguments.logins} logins of {arguments.users} users from {arguments.clients} clients"
            print(f"Sending {load} ...", flush=True)
            began = time.monotonic()
            sent = drive(port, arguments.users, arguments.logins, arguments.clients)
            counts, firings, consumed = asyncio.run(watch(url, arguments.logins))
            took = time.monotonic() - began
        codes = [process.popen.returncode for process in started]
    print(f"\nDone in {took:.1f} s.\n")
    good = [
        print_row("logins sent", sent.total(), arguments.logins),
        print_row("login_count, sum over all users", sum(counts.values()), arguments.logins),
        print_row("users with the login_count that was sent", sum(counts.get(u) == n for u, n in sent.items()), len(sent)),
        print_row("trigger firings (one for each login)", firings.total(), arguments.logins),
        *(print_row(f"    by {name}", number) for name, number in sorted(firings.items())),
        print_row("user.changed messages consumed", consumed.total(), arguments.logins),
        *(print_row(f"    by {name}", number) for name, number in sorted(consumed.items())),
        print_row("processes with exit code 0", codes.count(0), len(codes)),
    ]
    print()
    return 0 if all(good) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(1)
