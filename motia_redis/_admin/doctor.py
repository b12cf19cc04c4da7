"""Examine a Redis and a namespace: whether the servers are safe for state, and what is wrong with the namespace."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from motia_redis._admin import diagnosis, registry, sampling
from motia_redis._admin.connections import open_router
from motia_redis._admin.status import collect
from motia_redis._scripts import functions, loader
from motia_redis._store import keyspace
from motia_redis._store.namespaces import read_rejection
from motia_redis._transport import health
from motia_redis._transport.failures import ErrorReply
from motia_redis._transport.health import Finding
from motia_redis.errors import LayoutMismatch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from motia_redis._store.manager import StateManager
    from motia_redis._transport.router import Node, Router

_T = TypeVar("_T")
_PINGS = 5
_SLOW = 0.01  # seconds
#: A script that reads a key of the namespace: each mutation is a script with keys of the namespace.
_TRIAL = "return redis.call('EXISTS', KEYS[1])"
_GRANT = "give the user the ACL rule in docs/operating.md"


@dataclass(frozen=True, slots=True)
class Examined:
    """Hold the findings about one primary."""

    address: str  #: host:port, or the path of a socket
    findings: list[Finding]


@dataclass(frozen=True, slots=True)
class Examination:
    """Hold the findings about the primaries, each by itself, and about the namespace."""

    namespace: str
    servers: list[Examined]
    findings: list[Finding]  #: at least one of each check; several if there are several troubles of a kind

    @property
    def has_failed(self) -> bool:
        """Return whether a check has failed."""
        found = [*self.findings, *(finding for server in self.servers for finding in server.findings)]
        return any(finding.outcome == "failed" for finding in found)


async def examine(state: StateManager, *, stuck_after: float = 30.0) -> Examination:
    """Return the findings about each primary, and about the namespace. Only reads, and does not create the namespace.

    If Redis rejects a command for this user, the checks that need it have the outcome `unknown`. `stuck_after`: from so many
    seconds on, at least 5, a key whose handler runs is stuck.

    Cost: about 40 round trips; that of `read_status`; and samples whose size is bounded: 500 entries or about 256 KiB of each of
    256 streams of events, 1,000 scopes, 1,000 sizes of values, and 200 dead letters or about 1 MiB of each step in each
    partition. No call reads more than about 1 MiB, or a whole hash of a scope. Raises StateUnavailable.
    """
    async with open_router(state, "doctor") as router:
        servers, skews = [], {}
        for node in await router.primaries():
            skew = skews[node.server.address] = await _skew(router, node)
            servers.append(await _examine(state, router, node, skew))
        return Examination(state.namespace, servers, [health.clocks(skews), *await _diagnose(state, router, stuck_after)])


# -- servers ----------------------------------------------------------------------------------------------------------


async def _examine(state: StateManager, router: Router, node: Node, skew: float | None) -> Examined:
    pings = [await _timed_ping(router, node) for _ in range(_PINGS)]
    info = await _unless_rejected(router.execute_at(node, "INFO", "all"))
    config: dict[str, str] = {}
    for name in ("save", "appendfsync", "min-replicas-to-write"):
        reply = await _unless_rejected(router.execute_at(node, "CONFIG GET", name))
        config |= {key.decode(): value.decode() for key, value in (reply or {}).items()}
    found = health.findings(info, config, in_cluster=router.is_cluster)
    found.append(_speed(sorted(pings)[_PINGS // 2]))
    found.append(health.clock(skew))
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
    asked = time.time()
    reply = await _unless_rejected(router.execute_at(node, "TIME"))
    return None if reply is None else reply[0] + reply[1] / 1e6 - (asked + time.time()) / 2


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
        return Finding("permissions", "failed", str(error), _GRANT)
    return Finding("permissions", "ok", "scripts may run on the namespace's keys")


# -- the namespace ----------------------------------------------------------------------------------------------------


async def _diagnose(state: StateManager, router: Router, stuck_after: float) -> list[Finding]:
    """Return the findings about the namespace, if there is one that this process can read."""
    key = keyspace.layout_key(state.namespace)
    try:
        if not await router.execute(key, "EXISTS", key):
            text = "there is no such namespace on this Redis: no application has connected with its name"
            return [Finding("layout", "unknown", text, "check --namespace and --redis")]
        names = await state.connect()
        known = await registry.read(router, names)
        status = await collect(router, names, known)
    except LayoutMismatch as error:
        return [Finding("layout", "failed", str(error), "use the version of motia-redis that the applications use")]
    except ErrorReply as error:
        return [Finding("layout", "unknown", f"the namespace cannot be read: {error}", _GRANT)]
    shares = Counter({node.server.address: 0 for node in await router.primaries()})
    for partition in range(names.layout.partitions):
        shares[(await router.node_of(names.events(partition, 0))).server.address] += 1
    found = diagnosis.judge_layout(names.layout, shares, await read_rejection(router, state.namespace), known.now)
    found += diagnosis.judge_status(status, stuck_after=stuck_after)
    dead = [step.name for step in status.steps if step.dead_letters]
    found += await _sampled(
        ("dead-letters",), sampling.read_letters(router, names, dead), lambda it: diagnosis.judge_letters(status, it, known.now)
    )
    found += await _sampled(("held-memory",), sampling.read_held(router, known), lambda it: diagnosis.judge_held(status, it))
    found += await _sampled(("hot-keys",), sampling.read_hot_keys(router, names, known.now), diagnosis.judge_hot_keys)
    found += await _sampled(("large-scopes", "large-values"), sampling.read_sizes(router, names), diagnosis.judge_sizes)
    return found


async def _sampled(checks: tuple[str, ...], read: Awaitable[_T], judge: Callable[[_T], list[Finding]]) -> list[Finding]:
    """Return the findings of a sample, or that Redis rejects what it needs."""
    try:
        return judge(await read)
    except ErrorReply as error:
        return [Finding(check, "unknown", str(error), _GRANT) for check in checks]
