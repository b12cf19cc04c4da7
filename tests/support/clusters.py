"""Several redis-servers together: a Cluster of masters, and a primary with replicas and sentinels."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import redis

from motia_redis._transport.server_programs import find_server
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Self

SLOTS = 16384


def free_port(*, most: int = 55_000) -> int:
    """Return a port that is free, as is the one 10,000 above it, which a Cluster's nodes talk on."""
    while True:
        with socket.socket() as probe, socket.socket() as bus:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            with contextlib.suppress(OSError, OverflowError):
                if port <= most:
                    bus.bind(("127.0.0.1", port + 10_000))
                    return port


class Process:
    """One redis-server on a loopback port."""

    def __init__(self, directory: Path, port: int, *arguments: str) -> None:
        self.port = port
        directory.mkdir(parents=True)
        self._command = [str(find_server()), *arguments, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
        self._log = directory / "redis.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis(port=port)

    def start(self) -> None:
        """Start it and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        wait_until(self.answers, f"redis-server answers; its log is {self._log}")

    def answers(self) -> bool:
        """Tell whether it takes commands."""
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        """End it as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """End it if it runs, and close the client."""
        self.client.close()
        if self._process is not None and self._process.poll() is None:
            self.kill()


class Group:
    """Processes that start on `with` and are gone behind it, whatever happened."""

    def __init__(self) -> None:
        self.processes: list[Process] = []

    def start(self) -> None:
        """Start everything and wait until it works."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.end()


class Cluster(Group):
    """Masters that share the slots. `options` are redis-server's."""

    def __init__(self, directory: Path, *options: str, masters: int = 3) -> None:
        super().__init__()
        base = ["--save", "", "--cluster-enabled", "yes", "--cluster-node-timeout", "2000", *options]
        self.processes = [Process(directory / f"node{number}", free_port(), *base) for number in range(masters)]

    @property
    def url(self) -> str:
        """What a manager connects to."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.processes)

    def start(self) -> None:
        """Start the nodes, give each its share of the slots, and wait until each knows that all are served."""
        for node in self.processes:
            node.start()
        share = -(-SLOTS // len(self.processes))
        for number, node in enumerate(self.processes):
            node.client.execute_command("CLUSTER ADDSLOTS", *range(number * share, min(SLOTS, (number + 1) * share)))
            node.client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        for node in self.processes[1:]:
            self.processes[0].client.execute_command("CLUSTER MEET", "127.0.0.1", node.port)
        wait_until(lambda: all(map(self._is_complete, self.processes)), "the Cluster is complete")

    def _is_complete(self, node: Process) -> bool:
        info: Any = node.client.execute_command("CLUSTER INFO")
        text = info if isinstance(info, dict) else dict(line.split(":") for line in info.decode().split())
        return text["cluster_state"] == "ok" and int(text["cluster_known_nodes"]) == len(self.processes)

    def owner(self, slot: int) -> int:
        """Return the number of the node that serves a slot."""
        for number, node in enumerate(self.processes):
            ranges: Any = node.client.execute_command("CLUSTER SLOTS")
            for first, last, (_, port, *_), *_ in _raw_ranges(ranges):
                if first <= slot <= last and port == node.port:
                    return number
        raise AssertionError(f"nobody serves slot {slot}")

    def migrate(self, slot: int, to: int, *, during: Callable[[], None] = lambda: None) -> None:
        """Move a slot to another node while it is in use, a few keys at a time; `during` is called half-way."""
        source, target = self.processes[self.owner(slot)], self.processes[to]
        ids = {node.port: node.client.execute_command("CLUSTER MYID") for node in self.processes}
        target.client.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[source.port])
        source.client.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[target.port])
        first = True
        while keys := source.client.execute_command("CLUSTER GETKEYSINSLOT", slot, 2):
            source.client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
            if first:
                during()
                first = False
        for node in (target, source, *self.processes):
            node.client.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[target.port])


def _raw_ranges(ranges: Any) -> list[Any]:
    if not isinstance(ranges, dict):
        return list(ranges)
    return [(first, last, found["primary"]) for (first, last), found in ranges.items()]


class Sentinels(Group):
    """A primary, replicas, and sentinels that watch them."""

    def __init__(self, directory: Path, *options: str, replicas: int = 2, sentinels: int = 3) -> None:
        super().__init__()
        base = ["--save", "", "--repl-diskless-sync-delay", "0", *options]
        ports = [free_port() for _ in range(replicas + 1)]
        self.servers = [Process(directory / "server0", ports[0], *base)]
        for number, port in enumerate(ports[1:], 1):
            self.servers.append(Process(directory / f"server{number}", port, *base, "--replicaof", "127.0.0.1", str(ports[0])))
        self.sentinels = []
        for number in range(sentinels):
            home, port = directory / f"sentinel{number}", free_port()
            config = directory / f"sentinel{number}.conf"
            config.parent.mkdir(parents=True, exist_ok=True)
            config.write_text(
                f"sentinel monitor mymaster 127.0.0.1 {ports[0]} {sentinels // 2 + 1}\n"
                "sentinel down-after-milliseconds mymaster 1000\n"
                "sentinel failover-timeout mymaster 5000\n"
                "sentinel parallel-syncs mymaster 1\n"
            )
            self.sentinels.append(Process(home, port, str(config), "--sentinel"))
        self.processes = [*self.servers, *self.sentinels]

    @property
    def url(self) -> str:
        """What a manager connects to."""
        return "redis+sentinel://" + ",".join(f"127.0.0.1:{node.port}" for node in self.sentinels) + "/mymaster"

    def start(self) -> None:
        """Start everything and wait until all know of each other."""
        for process in self.processes:
            process.start()
        wait_until(self.is_complete, "the replicas are online and the sentinels know of each other")

    def is_complete(self) -> bool:
        """Tell whether the primary has all its replicas and the sentinels know of everybody."""
        replicas, others = len(self.servers) - 1, len(self.sentinels) - 1
        primary = self.primary()
        online = [primary.client.info("replication").get(f"slave{number}", {}) for number in range(replicas)]
        known = [sentinel.client.sentinel_masters()["mymaster"] for sentinel in self.sentinels]
        return all(replica.get("state") == "online" for replica in online) and all(
            int(state["num-slaves"]) == replicas and int(state["num-other-sentinels"]) == others for state in known
        )

    def primary(self) -> Process:
        """Return the server that the first sentinel names."""
        address: Any = self.sentinels[0].client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", "mymaster")
        return next(server for server in self.servers if server.port == int(address[1]))

    def kill_primary(self) -> Process:
        """Kill the primary as a crash would; return it."""
        server = self.primary()
        server.kill()
        return server
