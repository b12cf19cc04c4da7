"""`make demo`: one HTTP process and two workers share state through an embedded Redis; every number is checked.

Creates users over HTTP, logs them in from concurrent clients, waits for the triggers and prints a table. Exits with 1 if a
number is off. Everything it starts ends with it.
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
DEADLINE = 60.0  # seconds for any one thing to happen


class DemoError(Exception):
    """Something the demo needs did not happen."""


class Process:
    """One `motia-redis` process; its log goes to a file."""

    def __init__(self, name: str, directory: Path, *arguments: str) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        with self.log.open("wb") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "motia_redis", *arguments], stdout=log, stderr=log, cwd=directory
            )

    def wait_for_line(self, start: str) -> str:
        """Return the first line of the log that starts so."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end and self.popen.poll() is None:
            for line in self.log.read_text().splitlines():
                if line.startswith(start):
                    return line
            time.sleep(0.02)
        raise DemoError(f"{self.name} did not get ready; its log:\n{self.log.read_text()}")

    def stop(self) -> int:
        """Ask the process to finish and return its exit code."""
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
        """Send JSON and return the JSON answered; raise DemoError unless the status is a success."""
        self.connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        response = self.connection.getresponse()
        text = response.read()
        if response.status not in (200, 201):
            raise DemoError(f"POST {path}: {response.status} {text[:200]!r}")
        return json.loads(text)


def drive(port: int, users: int, logins: int, clients: int) -> Counter[str]:
    """Create the users, log them in from several clients at once, and return the logins sent per user."""
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
    """Wait until the triggers have handled everything; return login counts, firings and messages by process."""
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
    """Start the HTTP process and two workers; stop them at the end, whatever happens."""
    common = ["--redis", url, "--log-level", "warning"]
    started: list[Process] = []
    try:
        started.append(Process("http", directory, "serve", *APPLICATION, *common, "--port", "0"))
        started += [Process(f"worker{n}", directory, "worker", *APPLICATION, *common) for n in (1, 2)]
        yield started
    finally:
        for process in started:
            process.stop()


def row(what: str, number: object, expected: object = None) -> bool:
    """Print a line of the table; return whether the number is the expected one."""
    good = expected is None or number == expected
    verdict = "" if expected is None else "ok" if good else f"WRONG: expected {expected}"
    print(f"  {what:<44}{number!s:>8}  {verdict}".rstrip())
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=10)
    parser.add_argument("--logins", type=int, default=400)
    parser.add_argument("--clients", type=int, default=8)
    arguments = parser.parse_args()
    # Whatever the shell has set is meant for somebody's own application, not for the demo's Redis.
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
        row("logins sent", sent.total(), arguments.logins),
        row("login_count found, all users together", sum(counts.values()), arguments.logins),
        row("users whose login_count is exactly theirs", sum(counts.get(u) == n for u, n in sent.items()), len(sent)),
        row("trigger firings (one per login)", firings.total(), arguments.logins),
        *(row(f"    by {name}", number) for name, number in sorted(firings.items())),
        row("user.changed messages consumed", consumed.total(), arguments.logins),
        *(row(f"    by {name}", number) for name, number in sorted(consumed.items())),
        row("processes that ended cleanly", codes.count(0), len(codes)),
    ]
    print()
    return 0 if all(good) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(1)
