"""Looking at a Redis as a whole: whether it keeps what is given to it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from motia_redis._admin.connections import open_router
from motia_redis._store import keyspace
from motia_redis._transport import health
from motia_redis._transport.health import Finding

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from motia_redis._store.manager import StateManager
    from motia_redis._transport.router import Router

_SKEW = 2.0  # seconds that clocks may differ
_PINGS = 5
_SLOW = 0.01  # seconds
#: A script with a key of the namespace, as every change is one.
_TRIAL = "return redis.call('EXISTS', KEYS[1])"


@dataclass(frozen=True, slots=True)
class Examined:
    """One primary, and what was found there."""

    address: str  #: host:port, or the path of a socket
    findings: list[Finding]


async def examine(state: StateManager) -> list[Examined]:
    """Return a check list for each primary. Reads only, and creates no namespace. Raises StateUnavailable.

    Cost: a few round trips to each.
    """
    async with open_router(state, "doctor") as router:
        return [await _examine(state, router, client) for client in await router.primaries()]


async def _examine(state: StateManager, router: Router, client: Redis) -> Examined:
    pings = [await _timed_ping(client) for _ in range(_PINGS)]
    info: dict[str, Any] = await client.info("all")
    config: dict[Any, Any] = {}
    try:
        config = await client.config_get("save", "appendfsync", "min-replicas-to-write")
    except RedisError:  # its user may not, or the server takes one name at a time
        for name in ("save", "appendfsync", "min-replicas-to-write"):
            try:
                config |= await client.config_get(name)
            except RedisError:
                break
    found = health.findings(info, _text(config), in_cluster=router.is_cluster)
    found.append(_speed(sorted(pings)[_PINGS // 2]))
    found.append(await _clock(client))
    if not router.is_cluster:
        found.append(await _permission(client, state.namespace))
    where = client.connection_pool.connection_kwargs
    return Examined(where.get("path") or f"{where.get('host')}:{where.get('port')}", found)


def _text(config: dict[Any, Any]) -> dict[str, str]:
    return {_plain(name): _plain(value) for name, value in config.items()}


def _plain(text: Any) -> str:
    return text.decode() if isinstance(text, bytes) else str(text)


async def _timed_ping(client: Redis) -> float:
    began = time.perf_counter()
    await client.execute_command("PING")
    return time.perf_counter() - began


def _speed(seconds: float) -> Finding:
    found = f"{seconds * 1000:.1f} ms for a round trip"
    if seconds < _SLOW:
        return Finding("speed", "ok", found)
    return Finding("speed", "warning", found, "run the workers nearer to Redis: each call waits that long")


async def _clock(client: Redis) -> Finding:
    seconds, microseconds = await client.time()
    skew = seconds + microseconds / 1e6 - time.time()
    found = f"differs from this machine's by {abs(skew):.1f} s"
    if abs(skew) < _SKEW:
        return Finding("clock", "ok", found)
    return Finding("clock", "warning", found, "run NTP on both: ages and retention go by the server's clock")


async def _permission(client: Redis, namespace: str) -> Finding:
    try:
        await client.eval(_TRIAL, 1, keyspace.layout_key(namespace))
    except RedisError as error:
        return Finding("permissions", "failed", str(error), "give the user the rule of the README")
    return Finding("permissions", "ok", "scripts may run on the namespace's keys")
