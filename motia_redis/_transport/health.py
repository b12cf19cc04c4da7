"""Check that a Redis is configured for durability: from INFO and CONFIG to findings with remedies. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

OLDEST_VERSION = (6, 2)


@dataclass(frozen=True, slots=True)
class Finding:
    """Hold the result of one check.

    `failed`: the library cannot work, or normal operation loses state. `warning`: a crash loses state, or errors are near.
    `unknown`: the user may not read the setting.
    """

    check: str
    outcome: Literal["ok", "warning", "failed", "unknown"]
    found: str
    remedy: str = ""


def findings(info: Mapping[str, Any], config: Mapping[str, str], *, in_cluster: bool) -> list[Finding]:
    """Return the findings about one primary. `config` lacks the settings that the user may not read."""
    return [
        _version(info),
        _kind(info, in_cluster=in_cluster),
        _role(info),
        _eviction(info),
        _memory(info),
        persistence(info, config),
        _last_save(info),
        _replicas(info, config),
    ]


def warnings(info: Mapping[str, Any], config: Mapping[str, str]) -> Iterator[Finding]:
    """Yield the findings to log at the first connection: eviction of state, and a missing append-only file."""
    eviction, stored = _eviction(info), persistence(info, config)
    if eviction.outcome == "failed":
        yield eviction
    if stored.outcome == "warning" and not _is_appending(info):
        yield stored


def _version(info: Mapping[str, Any]) -> Finding:
    name = "Valkey" if "valkey_version" in info else "Redis"
    text = str(info.get("valkey_version") or info.get("redis_version", "?"))
    parts = str(info.get("redis_version", "0")).split(".")
    known = tuple(int(part) if part.isdigit() else 0 for part in parts[:2])
    if known >= OLDEST_VERSION:
        return Finding("version", "ok", f"{name} {text}")
    return Finding("version", "failed", f"{name} {text}", "upgrade to Redis 6.2, Valkey 7.2 or newer")


def _kind(info: Mapping[str, Any], *, in_cluster: bool) -> Finding:
    if bool(int(info.get("cluster_enabled", 0))) == in_cluster:
        return Finding("topology", "ok", "a node of a Cluster" if in_cluster else "not a Cluster")
    if in_cluster:
        return Finding("topology", "failed", "not a Cluster", "use redis:// instead of redis+cluster://")
    return Finding("topology", "failed", "a node of a Cluster", "use redis+cluster:// instead of redis://")


def _role(info: Mapping[str, Any]) -> Finding:
    if info.get("role") == "master":
        return Finding("role", "ok", "primary")
    return Finding("role", "failed", "a replica, which rejects writes", "use the URL of the primary, or redis+sentinel://")


def _eviction(info: Mapping[str, Any]) -> Finding:
    policy = str(info.get("maxmemory_policy", ""))
    if not policy:
        return Finding("eviction", "unknown", "this user may not read maxmemory-policy", "check that it is noeviction")
    if policy == "noeviction":
        return Finding("eviction", "ok", "maxmemory-policy noeviction")
    remedy = "CONFIG SET maxmemory-policy noeviction, also in redis.conf"
    if not int(info.get("maxmemory", 0)):
        return Finding("eviction", "warning", f"maxmemory-policy {policy}, which evicts once a maxmemory is set", remedy)
    if policy.startswith("volatile"):
        return Finding("eviction", "warning", f"maxmemory-policy {policy}: evicts the records that detect repeated calls", remedy)
    return Finding("eviction", "failed", f"maxmemory-policy {policy}: state is evicted when memory is full", remedy)


def _memory(info: Mapping[str, Any]) -> Finding:
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if not limit:
        return Finding("memory", "ok", f"{used / 1e6:.1f} MB used, no maxmemory")
    found = f"{used / 1e6:.1f} of {limit / 1e6:.1f} MB used"
    if used <= 0.8 * limit:
        return Finding("memory", "ok", found)
    return Finding("memory", "warning", found, "raise maxmemory, or delete data: a full Redis rejects all writes")


def _is_appending(info: Mapping[str, Any]) -> bool:
    return bool(int(info.get("aof_enabled", 0)))


def persistence(info: Mapping[str, Any], config: Mapping[str, str]) -> Finding:
    """Return the finding about the append-only file and snapshots."""
    if "aof_enabled" not in info:
        return Finding("persistence", "unknown", "this user may not read INFO persistence", "check that appendonly is yes")
    if not _is_appending(info):
        remedy = "CONFIG SET appendonly yes, also in redis.conf"
        if "save" not in config:
            return Finding("persistence", "warning", "no append-only file: a crash may lose minutes, or everything", remedy)
        if not config["save"]:
            return Finding("persistence", "warning", "nothing is kept on disk: a restart loses everything", remedy)
        return Finding(
            "persistence", "warning", f"snapshots only (save {config['save']}): a crash loses all later changes", remedy
        )
    sync = config.get("appendfsync", "")
    if sync == "no":
        remedy = "CONFIG SET appendfsync everysec, or always"
        return Finding("persistence", "warning", "append-only file, appendfsync no: synced whenever the system decides", remedy)
    loss = {"everysec": "a crash may lose the last second", "always": "an answered change is on disk"}.get(sync, "")
    return Finding("persistence", "ok", f"append-only file{', appendfsync ' + sync if sync else ''}{': ' + loss if loss else ''}")


def _last_save(info: Mapping[str, Any]) -> Finding:
    failed = [name for name in ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
              if info.get(name, "ok") != "ok"]  # fmt: skip
    if not failed:
        return Finding("disk", "ok", "the last writes to disk went well")
    return Finding(
        "disk", "failed", f"writing to disk failed: {', '.join(failed)}", "check the free disk space and the server's log"
    )


def _replicas(info: Mapping[str, Any], config: Mapping[str, str]) -> Finding:
    count, minimum = int(info.get("connected_slaves", 0)), config.get("min-replicas-to-write", "")
    if not count:
        found = "no replica: durability='replicated' and fail-over are not available"
        return Finding("replicas", "ok", found)
    found = f"{count} connected"
    if minimum in ("", "0"):
        remedy = "CONFIG SET min-replicas-to-write 1, so that an isolated primary rejects writes"
        return Finding(
            "replicas", "ok" if minimum == "" else "warning", f"{found}, min-replicas-to-write {minimum or 'unknown'}", remedy
        )
    return Finding("replicas", "ok", f"{found}, min-replicas-to-write {minimum}")
