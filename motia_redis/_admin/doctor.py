"""Check that the servers of a Redis are configured for durability, and that this user may run the library's commands."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from motia_redis._admin.connections import open_router
from motia_redis._scripts import functions, loader
from motia_redis._store import keyspace
from motia_redis._transport import health
from motia_redis._transport.failures import ErrorReply
from motia_redis._transport.health import Finding

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from motia_redis._store.manager import StateManager
    from motia_redis._transport.router import Node, Router

_T = TypeVar("_T")
_PINGS = 5
_SLOW = 0.01  # seconds
#: A script that reads a key of the namespace: each mutation is a script with keys of the namespace.
_TRIAL = "return redis.call('EXISTS', KEYS[1])"


@dataclass(frozen=True, slots=True)
class Examined:
    """Hold the findings about one primary."""

    address: str  #: host:port, or the path of a socket
    findings: list[Finding]


async def examine(state: StateManager) -> list[Examined]:
    """Return the findings about each primary. Only reads, and does not create the namespace.

    If Redis rejects a command for this user, the checks that need it have the outcome `unknown`. Cost: a few round trips to each
    primary. Raises StateUnavailable.
    """
    async with open_router(state, "doctor") as router:
        return [await _examine(state, router, node) for node in await router.primaries()]


async def _examine(state: StateManager, router: Router, node: Node) -> Examined:
    pings = [await _timed_ping(router, node) for _ in range(_PINGS)]
    info = await _unless_rejected(router.execute_at(node, "INFO", "all"))
    config: dict[str, str] = {}
    for name in ("save", "appendfsync", "min-replicas-to-write"):
        reply = await _unless_rejected(router.execute_at(node, "CONFIG GET", name))
        config |= {key.decode(): value.decode() for key, value in (reply or {}).items()}
    found = health.findings(info, config, in_cluster=router.is_cluster)
    found.append(_speed(sorted(pings)[_PINGS // 2]))
    found.append(health.clock(await _skew(router, node)))
    if not router.is_cluster:
        found.append(await _permission(router, node, state.namespace))
    found.append(Finding("scripts", "ok", await functions.explain(router, node, loader.library())))
    return Examined(node.server.address, found)


async def _timed_ping(router: Router, node: Node) -> float:
    began = time.perf_counter()
    await router.execute_at(node, "PING")
    return time.perf_counter() - began


def _speed(seconds: float) -> Finding:
    found = f"{seconds * 1000:.1f} ms for a round trip"
    if seconds < _SLOW:
        return Finding("speed", "ok", found)
    return Finding("speed", "warning", found, "run the workers nearer to Redis: each call takes at least that time")


async def _skew(router: Router, node: Node) -> float | None:
    """Return by how many seconds the server's clock is ahead of this machine's, or None if Redis rejects TIME."""
    reply = await _unless_rejected(router.execute_at(node, "TIME"))
    return None if reply is None else reply[0] + reply[1] / 1e6 - time.time()


async def _unless_rejected(reply: Awaitable[_T]) -> _T | None:
    """Return a reply, or None if Redis rejects the command, as it does for a user without the permission."""
    try:
        return await reply
    except ErrorReply:
        return None


async def _permission(router: Router, node: Node, namespace: str) -> Finding:
    try:
        await router.execute_at(node, "EVAL", _TRIAL, 1, keyspace.layout_key(namespace))
    except ErrorReply as error:
        return Finding("permissions", "failed", str(error), "give the user the ACL rule in docs/operating.md")
    return Finding("permissions", "ok", "scripts may run on the namespace's keys")
