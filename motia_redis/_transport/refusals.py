"""Explain error replies of Redis and name the remedy."""

from __future__ import annotations

import re

from redis.exceptions import AskError, AuthenticationError, InvalidResponse, RedisError

#: The position inside a script that Redis 6.2 (prefix) and Redis 7 (suffix) add to the text of an error.
_NOISE = re.compile(
    r"^(?:ERR )?Error running script \([^)]*\): |@?user_script: ?\d+: ?"
    r"| script: [0-9a-f]{40}, on @?user_script:\d+\.?"
)
#: By error code, the first word of an error reply. Each text continues "Redis at URL ...".
_REFUSALS = {
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
}
#: By a part of the text: for replies without a specific code, or whose code redis-py removed.
_CODES_BY_TEXT = {
    "without any password configured": "NOPASS",
    "no password is set": "NOPASS",
    "invalid username-password": "WRONGPASS",
    "invalid password": "WRONGPASS",
    "Authentication required": "NOAUTH",
    "HELLO must be called with the client already authenticated": "NOAUTH",
    "used memory > 'maxmemory'": "OOM",
    "against a read only replica": "READONLY",
    "against a key holding the wrong kind": "WRONGTYPE",
    "loading the dataset": "LOADING",
    "cluster support disabled": "NOCLUSTER",
    "unknown command 'SENTINEL'": "NOSENTINEL",
    "unknown command `SENTINEL`": "NOSENTINEL",
    "no permissions to": "NOPERM",
    "The user executing the script can't": "NOPERM",
}


#: Refusals that end without a change by the user; the second set only where a fail-over may have moved the primary.
_TRANSIENT = frozenset({"LOADING", "BUSY", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS"})
_TRANSIENT_DURING_FAILOVER = frozenset({"READONLY", "MASTERDOWN", "UNBLOCKED"})


def clean_message(error: Exception) -> str:
    """Return the text of an error without its position inside a script."""
    return _NOISE.sub("", str(error)).lstrip("-").strip() or type(error).__name__


def refusal(error: Exception) -> str | None:
    """Return the explanation of an error reply, to follow "Redis at URL". Return None for other errors and unknown codes.

    After an error reply the call has changed nothing.
    """
    if isinstance(error, InvalidResponse):
        return f"is not a Redis: the server speaks another protocol ({clean_message(error)})"
    code = error_code(error)
    return f"{_REFUSALS[code]} ({clean_message(error)})" if code in _REFUSALS else None


def is_transient(error: Exception, *, fails_over: bool) -> bool:
    """Return whether a repetition of the call may succeed. `fails_over`: another server may become the primary."""
    code = error_code(error)
    return code in _TRANSIENT or (fails_over and (code in _TRANSIENT_DURING_FAILOVER or isinstance(error, AskError)))


def error_code(error: Exception) -> str | None:
    """Return the code of an error reply, even if redis-py removed the code from its text. Return None for other errors."""
    if not isinstance(error, RedisError):
        return None
    text = clean_message(error)
    code = next((code for part, code in _CODES_BY_TEXT.items() if part in text), None)
    code = code or getattr(error, "status_code", None) or text.partition(" ")[0]
    return "WRONGPASS" if code not in _REFUSALS and isinstance(error, AuthenticationError) else code
