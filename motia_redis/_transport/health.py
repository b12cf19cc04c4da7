"""Check that a Redis is configured for durability: from INFO and CONFIG to findings with remedies. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

OLDEST_VERSION = (6, 2)
_MOST_SKEW = 2.0  # seconds by which two clocks may differ
_FULL = 0.99  # share of maxmemory from which a server counts as full: what clients use comes and goes
_DISK_STATUS = ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")


@dataclass(frozen=True, slots=True)
class Finding:
    """Hold the result of one check.

    `failed`: the library cannot work, or normal operation loses state. `warning`: a crash loses state, or errors are near.
    `unknown`: the user may not read what the check needs, or the server does not report it.
    """

    check: str
    outcome: Literal["ok", "warning", "failed", "unknown"]
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class _Server:
    """Hold what one primary tells about itself. `config` lacks the settings that the user may not read."""

    info: Mapping[str, Any]
    config: Mapping[str, str]
    in_cluster: bool = False


@dataclass(frozen=True, slots=True)
class _Check:
    """Define a check and the fields of INFO that it needs."""

    name: str
    fields: tuple[str, ...]
    examine: Callable[[_Server], Finding]

    def run(self, server: _Server) -> Finding:
        missing = [field for field in self.fields if field not in server.info]
        if not missing:
            return self.examine(server)
        return Finding(
            self.name, "unknown", f"INFO has no {', '.join(missing)}", "ask the provider of the server for the setting"
        )

    def run_without_info(self) -> Finding:
        return Finding(self.name, "unknown", "Redis rejects INFO for this user", _grant("+info"))


def findings(info: Mapping[str, Any] | None, config: Mapping[str, str], *, in_cluster: bool) -> list[Finding]:
    """Return the findings about one primary.

    `info` is the reply of INFO, or None if Redis rejects INFO for this user. `config` lacks the settings that the user may not
    read.
    """
    if info is None:
        return [check.run_without_info() for check in _CHECKS]
    server = _Server(info, config, in_cluster)
    return [check.run(server) for check in _CHECKS]


def warnings(info: Mapping[str, Any], config: Mapping[str, str]) -> Iterator[Finding]:
    """Yield the findings to log at the first connection: eviction of state, and a missing append-only file."""
    server = _Server(info, config)
    eviction, persistence = _EVICTION.run(server), _PERSISTENCE.run(server)
    if eviction.outcome == "failed":
        yield eviction
    if persistence.outcome == "warning" and not _is_appending(server):
        yield persistence


def clock(skew: float | None) -> Finding:
    """Return the finding about the server's clock.

    `skew` is the difference from this machine's clock in seconds, or None if Redis rejects TIME for the user.
    """
    if skew is None:
        return Finding("clock", "unknown", "Redis rejects TIME for this user", _grant("+time"))
    found = f"differs from this machine's by {abs(skew):.1f} s"
    if abs(skew) < _MOST_SKEW:
        return Finding("clock", "ok", found)
    return Finding("clock", "warning", found, "run NTP on both machines: ages and retention use the server's clock")


def clocks(skews: Mapping[str, float | None]) -> Finding:
    """Return the finding about the clocks of several servers, each as its difference from this machine's in seconds."""
    known = sorted((skew, address) for address, skew in skews.items() if skew is not None)
    if len(known) < len(skews):
        return Finding("clocks", "unknown", "Redis rejects TIME for this user", _grant("+time"))
    if len(known) < 2:
        return Finding("clocks", "ok", "there is one primary")
    (lowest, behind), (highest, ahead) = known[0], known[-1]
    found = f"the clocks of {len(known)} primaries differ by up to {highest - lowest:.1f} s"
    if highest - lowest < _MOST_SKEW:
        return Finding("clocks", "ok", found)
    remedy = "run NTP on all servers: revisions, leases and times to live use the clock of the server that has the key"
    return Finding("clocks", "warning", f"{found}: {ahead} is ahead of {behind}", remedy)


def _grant(permission: str) -> str:
    return f"grant the user {permission} (ACL rule in docs/operating.md)"


def _version(server: _Server) -> Finding:
    info = server.info
    name = "Valkey" if "valkey_version" in info else "Redis"
    found = f"{name} {info.get('valkey_version') or info['redis_version']}"
    parts = str(info["redis_version"]).split(".")
    version = tuple(int(part) if part.isdigit() else 0 for part in parts[:2])
    if version >= OLDEST_VERSION:
        return Finding("version", "ok", found)
    return Finding("version", "failed", found, "upgrade to Redis 6.2, Valkey 7.2 or newer")


def _topology(server: _Server) -> Finding:
    if bool(int(server.info["cluster_enabled"])) == server.in_cluster:
        return Finding("topology", "ok", "a node of a Cluster" if server.in_cluster else "not a Cluster")
    if server.in_cluster:
        return Finding("topology", "failed", "not a Cluster", "use redis:// instead of redis+cluster://")
    return Finding("topology", "failed", "a node of a Cluster", "use redis+cluster:// instead of redis://")


def _role(server: _Server) -> Finding:
    if server.info["role"] == "master":
        return Finding("role", "ok", "primary")
    return Finding("role", "failed", "a replica, which rejects writes", "use the URL of the primary, or redis+sentinel://")


def _eviction(server: _Server) -> Finding:
    policy = str(server.info["maxmemory_policy"])
    if policy == "noeviction":
        return Finding("eviction", "ok", "maxmemory-policy noeviction")
    remedy = "CONFIG SET maxmemory-policy noeviction, also in redis.conf"
    if not int(server.info["maxmemory"]):
        return Finding("eviction", "warning", f"maxmemory-policy {policy}, which evicts once a maxmemory is set", remedy)
    if policy.startswith("volatile"):
        return Finding("eviction", "warning", f"maxmemory-policy {policy}: evicts the records that detect repeated calls", remedy)
    return Finding("eviction", "failed", f"maxmemory-policy {policy}: state is evicted when memory is full", remedy)


def _memory(server: _Server) -> Finding:
    used, limit = int(server.info["used_memory"]), int(server.info["maxmemory"])
    if not limit:
        return Finding("memory", "ok", f"{used / 1e6:.1f} MB used, no maxmemory")
    found = f"{used / 1e6:.1f} of {limit / 1e6:.1f} MB used"
    if used <= 0.8 * limit:
        return Finding("memory", "ok", found)
    if used < _FULL * limit:
        return Finding("memory", "warning", found, "raise maxmemory, or delete data: a full Redis rejects all writes")
    remedy = "CONFIG SET maxmemory to more, or delete data: deleting, handling and trimming go on (docs: A full Redis)"
    return Finding("memory", "failed", f"Redis is full, and rejects writes: {found}", remedy)


def _is_appending(server: _Server) -> bool:
    return bool(int(server.info["aof_enabled"]))


def _persistence(server: _Server) -> Finding:
    return _append_only_file(server.config) if _is_appending(server) else _snapshots(server.config)


def _append_only_file(config: Mapping[str, str]) -> Finding:
    sync = config.get("appendfsync", "")
    if not sync:
        found = "append-only file, appendfsync unknown: Redis rejects CONFIG GET for this user"
        return Finding("persistence", "unknown", found, _grant("+config|get"))
    found = f"append-only file, appendfsync {sync}"
    if sync == "no":
        remedy = "CONFIG SET appendfsync everysec, or always"
        return Finding("persistence", "warning", f"{found}: the operating system decides when changes reach the disk", remedy)
    loss = {"everysec": ": a crash may lose the last second", "always": ": an answered change is on disk"}.get(sync, "")
    return Finding("persistence", "ok", found + loss)


def _snapshots(config: Mapping[str, str]) -> Finding:
    remedy = "CONFIG SET appendonly yes, also in redis.conf"
    if "save" not in config:
        found = "no append-only file: a crash may lose minutes, or everything"
    elif config["save"]:
        found = f"snapshots only (save {config['save']}): a crash loses all later changes"
    else:
        found = "nothing is kept on disk: a restart loses everything"
    return Finding("persistence", "warning", found, remedy)


def _disk(server: _Server) -> Finding:
    failed = [field for field in _DISK_STATUS if server.info[field] != "ok"]
    if not failed:
        return Finding("disk", "ok", "the last writes to disk succeeded")
    remedy = "check the free disk space and the server's log"
    return Finding("disk", "failed", f"writing to disk failed: {', '.join(failed)}", remedy)


def _replicas(server: _Server) -> Finding:
    count, minimum = int(server.info["connected_slaves"]), server.config.get("min-replicas-to-write", "")
    if not count:
        return Finding("replicas", "ok", "no replica: durability='replicated' and fail-over are not available")
    if not minimum:
        found = f"{count} connected, min-replicas-to-write unknown: Redis rejects CONFIG GET for this user"
        return Finding("replicas", "unknown", found, _grant("+config|get"))
    found = f"{count} connected, min-replicas-to-write {minimum}"
    if minimum == "0":
        remedy = "CONFIG SET min-replicas-to-write 1, so that an isolated primary rejects writes"
        return Finding("replicas", "warning", found, remedy)
    return Finding("replicas", "ok", found)


_EVICTION = _Check("eviction", ("maxmemory_policy", "maxmemory"), _eviction)
_PERSISTENCE = _Check("persistence", ("aof_enabled",), _persistence)
_CHECKS = (
    _Check("version", ("redis_version",), _version),
    _Check("topology", ("cluster_enabled",), _topology),
    _Check("role", ("role",), _role),
    _EVICTION,
    _Check("memory", ("used_memory", "maxmemory"), _memory),
    _PERSISTENCE,
    _Check("disk", _DISK_STATUS, _disk),
    _Check("replicas", ("connected_slaves",), _replicas),
)
