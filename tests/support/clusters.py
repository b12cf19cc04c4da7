"""Run several redis-servers together: a Cluster, or a primary with replicas and sentinels."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import redis

from motia_redis._transport.server_programs import find_server
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Self

SLOTS = 16384


def free_port(*, maximum: int = 55_000) -> int:
    """Return a free port. The port 10,000 above it is free too, for the bus of a Cluster."""
    while True:
        with socket.socket() as probe, socket.socket() as bus:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            with contextlib.suppress(OSError, OverflowError):
                if port <= maximum:
                    bus.bind(("127.0.0.1", port + 10_000))
                    return port


class Process:
    """Run one redis-server on a loopback port. `environment` is added to that of this process."""

    def __init__(self, directory: Path, port: int, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self.port = port
        directory.mkdir(parents=True)
        self._command = [str(find_server()), *arguments, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
        self._log = directory / "redis.log"
        self._environment = os.environ | (environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis(port=port)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=self._environment)
        wait_until(self.answers, f"redis-server answers; its log is {self._log}")

    def answers(self) -> bool:
        """Return whether the server answers."""
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        """Kill the server like a crash."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def signal(self, number: int) -> None:
        """Send a signal to the server."""
        assert self._process is not None
        self._process.send_signal(number)

    def end(self) -> None:
        """Kill the server if it runs, and close the client."""
        self.client.close()
        if self._process is not None and self._process.poll() is None:
            self.kill()


class Group:
    """Run processes within `with`."""

    def __init__(self) -> None:
        self.processes: list[Process] = []

    def start(self) -> None:
        """Start all processes and wait until they work together."""
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
    """Run a Cluster of masters without replicas. `options` are options of redis-server."""

    def __init__(self, directory: Path, *options: str, masters: int = 3) -> None:
        super().__init__()
        base = ["--save", "", "--cluster-enabled", "yes", "--cluster-node-timeout", "2000", *options]
        self.processes = [Process(directory / f"node{number}", free_port(), *base) for number in range(masters)]

    @property
    def url(self) -> str:
        """Return the URL for a StateManager."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.processes)

    def start(self) -> None:
        """Start the nodes, distribute the slots, and wait until each node knows the whole Cluster."""
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
        """Return the index of the node that serves a slot."""
        for number, node in enumerate(self.processes):
            ranges: Any = node.client.execute_command("CLUSTER SLOTS")
            for first, last, (_, port, *_), *_ in _raw_ranges(ranges):
                if first <= slot <= last and port == node.port:
                    return number
        raise AssertionError(f"no node serves slot {slot}")

    def migrate(self, slot: int, to: int, *, during: Callable[[], None] = lambda: None) -> None:
        """Move a slot to another node, two keys at a time. Call `during` after the first keys."""
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
    """Run a primary, its replicas, and sentinels that monitor them."""

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
        """Return the URL for a StateManager."""
        return "redis+sentinel://" + ",".join(f"127.0.0.1:{node.port}" for node in self.sentinels) + "/mymaster"

    def start(self) -> None:
        """Start all processes and wait until they know each other."""
        for process in self.processes:
            process.start()
        wait_until(self.is_complete, "the replicas are online and the sentinels know each other")

    def is_complete(self) -> bool:
        """Return whether the primary has all its replicas and each sentinel knows all processes."""
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
        """Kill the primary like a crash and return it."""
        server = self.primary()
        server.kill()
        return server
