"""Explain error replies of Redis and name the remedy."""

from __future__ import annotations

#: By error code, the first word of an error reply. Each text continues "Redis at URL ...".
_EXPLANATIONS = {
    "NOAUTH": "needs a password: add it to the URL, redis://user:password@host",
    "WRONGPASS": "rejects the user or the password of the URL: correct them",
    "NOPASS": "has no password, but the URL has one: remove it from the URL",
    "OOM": "is full (maxmemory): nothing was changed; delete data or raise maxmemory, and set maxmemory-policy to noeviction",
    "READONLY": "is a read-only replica: use the URL of the primary to change state",
    "LOADING": "is loading its data: try again in a moment",
    "NOPERM": "denies this user the command or the key: add them to its ACL rule (docs/operating.md has the complete rule)",
    "WRONGTYPE": "holds another type under a key of this library: another client wrote it; delete or rename that key",
    "MISCONF": "rejects writes, because it cannot save to disk: check the free disk space and the server's log",
    "MASTERDOWN": "is a replica without connection to its primary: use the URL of the primary",
    "BUSY": "is busy running a script: try again in a moment",
    "MOVED": "is a node of a Cluster: use redis+cluster://",
    "ASK": "is a node of a Cluster: use redis+cluster://",
    "CROSSSLOT": "is a node of a Cluster: use redis+cluster://",
    "CLUSTERDOWN": "is a node of a Cluster that does not serve all slots: try again in a moment",
    "NOCLUSTER": "is not a node of a Cluster: use redis://",
    "NOSENTINEL": "is not a sentinel: use the addresses of the sentinels, or redis://",
    "TRYAGAIN": "is moving these keys to another node: try again in a moment",
    "NOREPLICAS": "rejects writes while it has too few replicas: connect replicas, or lower min-replicas-to-write",
    "NOPROTO": "does not speak RESP3: it is older than Redis 6.2, or a proxy that does not support HELLO 3",
}
#: For replies with the code ERR: a code by a part of the text. It selects an explanation and decides nothing.
_CODES_BY_TEXT = {
    "without any password configured": "NOPASS",
    "Can't execute 'hello'": "NOPROTO",
    "cluster support disabled": "NOCLUSTER",
    "unknown command 'SENTINEL'": "NOSENTINEL",
    "unknown command `SENTINEL`": "NOSENTINEL",
    "unknown command 'HELLO'": "NOPROTO",
    "unknown command `HELLO`": "NOPROTO",
    "The user executing the script can't": "NOPERM",
    "ACL failure in script": "NOPERM",
}
#: Codes of refusals that pass.
_TRANSIENT = frozenset({"LOADING", "BUSY", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS"})
#: Codes of refusals that pass where a fail-over may have made another server the primary.
_TRANSIENT_DURING_FAILOVER = frozenset({"READONLY", "MASTERDOWN", "UNBLOCKED", "MOVED", "ASK"})


def explain(code: str, text: str) -> str:
    """Return what an error reply says about Redis, as the end of a sentence that begins with its address."""
    if code == "ERR":
        code = next((found for part, found in _CODES_BY_TEXT.items() if part in text), code)
    return f"{_EXPLANATIONS[code]} ({text})" if code in _EXPLANATIONS else f"refused the call: {text}"


def is_transient(code: str, *, fails_over: bool) -> bool:
    """Return whether a refusal passes by itself. `fails_over`: another server may become the primary."""
    return code in _TRANSIENT or (fails_over and code in _TRANSIENT_DURING_FAILOVER)
