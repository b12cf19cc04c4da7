"""What the settings of a Redis mean for what is kept in it: from facts to a check list, with remedies. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

OLDEST_VERSION = (6, 2)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the check list. `failed`: it cannot work, or state gets lost in operation; `warning`: in a crash, or soon."""

    check: str
    outcome: Literal["ok", "warning", "failed", "unknown"]
    found: str
    remedy: str = ""


def findings(info: Mapping[str, Any], config: Mapping[str, str], *, in_cluster: bool) -> list[Finding]:
    """Return what one primary's INFO and CONFIG tell; `config` lacks what its user may not read."""
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
    """Yield what everybody who connects should know: that state would be evicted, or is not kept on disk at all."""
    eviction, kept = _eviction(info), persistence(info, config)
    if eviction.outcome == "failed":
        yield eviction
    if kept.outcome == "warning" and not _is_appending(info):
        yield kept


def _version(info: Mapping[str, Any]) -> Finding:
    name = "Valkey" if "valkey_version" in info else "Redis"
    text = str(info.get("valkey_version") or info.get("redis_version", "?"))
    parts = str(info.get("redis_version", "0")).split(".")
    known = tuple(int(part) if part.isdigit() else 0 for part in parts[:2])
    if known >= OLDEST_VERSION:
        return Finding("version", "ok", f"{name} {text}")
    return Finding("version", "failed", f"{name} {text}", "use Redis 6.2 or Valkey 7.2, or newer")


def _kind(info: Mapping[str, Any], *, in_cluster: bool) -> Finding:
    if bool(int(info.get("cluster_enabled", 0))) == in_cluster:
        return Finding("topology", "ok", "a node of a Cluster" if in_cluster else "not a Cluster")
    if in_cluster:
        return Finding("topology", "failed", "not a Cluster", "use redis:// in place of redis+cluster://")
    return Finding("topology", "failed", "a node of a Cluster", "use redis+cluster:// in place of redis://")


def _role(info: Mapping[str, Any]) -> Finding:
    if info.get("role") == "master":
        return Finding("role", "ok", "primary")
    return Finding("role", "failed", "a replica, which takes no changes", "give the URL of the primary, or redis+sentinel://")


def _eviction(info: Mapping[str, Any]) -> Finding:
    policy = str(info.get("maxmemory_policy", ""))
    if not policy:
        return Finding("eviction", "unknown", "this user may not read maxmemory-policy", "make sure that it is noeviction")
    if policy == "noeviction":
        return Finding("eviction", "ok", "maxmemory-policy noeviction")
    remedy = "CONFIG SET maxmemory-policy noeviction, in redis.conf too"
    if not int(info.get("maxmemory", 0)):
        return Finding("eviction", "warning", f"maxmemory-policy {policy}, which evicts once a maxmemory is set", remedy)
    if policy.startswith("volatile"):
        return Finding("eviction", "warning", f"maxmemory-policy {policy}: evicts what tells repeated calls apart", remedy)
    return Finding("eviction", "failed", f"maxmemory-policy {policy}: state is evicted when the memory is full", remedy)


def _memory(info: Mapping[str, Any]) -> Finding:
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if not most:
        return Finding("memory", "ok", f"{used / 1e6:.1f} MB used, no maxmemory")
    found = f"{used / 1e6:.1f} of {most / 1e6:.1f} MB used"
    if used <= 0.8 * most:
        return Finding("memory", "ok", found)
    return Finding("memory", "warning", found, "raise maxmemory or delete: a full Redis refuses all changes")


def _is_appending(info: Mapping[str, Any]) -> bool:
    return bool(int(info.get("aof_enabled", 0)))


def persistence(info: Mapping[str, Any], config: Mapping[str, str]) -> Finding:
    """Return what is kept on disk."""
    if "aof_enabled" not in info:
        return Finding("persistence", "unknown", "this user may not read INFO persistence", "make sure of appendonly yes")
    if not _is_appending(info):
        remedy = "CONFIG SET appendonly yes, in redis.conf too"
        if "save" not in config:
            return Finding("persistence", "warning", "no append-only file: a crash may lose minutes, or everything", remedy)
        if not config["save"]:
            return Finding("persistence", "warning", "nothing is kept on disk: a restart loses everything", remedy)
        return Finding("persistence", "warning", f"snapshots only (save {config['save']}): a crash loses what came since", remedy)
    sync = config.get("appendfsync", "")
    if sync == "no":
        remedy = "CONFIG SET appendfsync everysec, or always"
        return Finding("persistence", "warning", "append-only file, synced whenever the system likes", remedy)
    told = {"everysec": "a crash may lose the last second", "always": "an answered change is on disk"}.get(sync, "")
    return Finding("persistence", "ok", f"append-only file{', appendfsync ' + sync if sync else ''}{': ' + told if told else ''}")


def _last_save(info: Mapping[str, Any]) -> Finding:
    bad = [name for name in ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
           if info.get(name, "ok") != "ok"]  # fmt: skip
    if not bad:
        return Finding("disk", "ok", "the last writes to disk went well")
    return Finding("disk", "failed", f"writing to disk failed: {', '.join(bad)}", "look at the server's log: disk full?")


def _replicas(info: Mapping[str, Any], config: Mapping[str, str]) -> Finding:
    count, least = int(info.get("connected_slaves", 0)), config.get("min-replicas-to-write", "")
    if not count:
        found = "no replica: durability='replicated' and fail-over are not to be had"
        return Finding("replicas", "ok", found)
    found = f"{count} connected"
    if least in ("", "0"):
        remedy = "CONFIG SET min-replicas-to-write 1, so that a primary that was cut off takes no changes"
        return Finding(
            "replicas", "ok" if least == "" else "warning", f"{found}, min-replicas-to-write {least or 'unknown'}", remedy
        )
    return Finding("replicas", "ok", f"{found}, min-replicas-to-write {least}")
