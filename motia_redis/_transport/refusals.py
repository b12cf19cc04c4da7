"""Redis's own error replies, with words a person can act on."""

from __future__ import annotations

import re

from redis.exceptions import AskError, AuthenticationError, InvalidResponse, RedisError

#: What a script's error carries besides its text: in front of it in Redis 6.2, behind it in Redis 7 and Valkey. Valkey 9 leaves
#: the hash out.
_NOISE = re.compile(
    r"^(?:ERR )?Error running script \([^)]*\): |@?user_script: ?\d+: ?"
    r"| script: (?:[0-9a-f]{40}, )?on @?user_script:\d+\.?$"
)
#: By the first word of Redis's own error replies.
_REFUSALS = {
    "NOAUTH": "needs a password: put it into the URL, redis://user:password@host",
    "WRONGPASS": "does not accept the user or the password of the URL",
    "NOPASS": "has no password, and the URL gives one: leave it out",
    "OOM": "is full (maxmemory): nothing was changed; delete or raise maxmemory, and let maxmemory-policy be noeviction",
    "READONLY": "is a read-only replica: give the URL of the primary to change anything",
    "LOADING": "is loading its data: try again in a moment",
    "NOPERM": "does not let this user do that: its ACL needs the namespace's keys and the commands",
    "WRONGTYPE": "holds another type under one of our keys: another client wrote it; delete or rename that key",
    "MISCONF": "takes no changes, because it cannot save to disk",
    "MASTERDOWN": "is a replica that has lost its primary",
    "BUSY": "is busy with a script: try again in a moment",
    "MOVED": "is a node of a Cluster: use redis+cluster://",
    "ASK": "is a node of a Cluster: use redis+cluster://",
    "CROSSSLOT": "is a node of a Cluster: use redis+cluster://",
    "CLUSTERDOWN": "is a node of a Cluster that is not complete: try again in a moment",
    "NOCLUSTER": "is no node of a Cluster: use redis://",
    "NOSENTINEL": "is no sentinel: give the sentinels' addresses, or use redis://",
    "TRYAGAIN": "is moving these keys to another node: try again in a moment",
    "NOREPLICAS": "takes no changes while it has too few replicas (min-replicas-to-write)",
}
#: For replies whose first word says nothing, or that redis-py has taken it from: a part of the text.
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
    "No permissions to": "NOPERM",
    "The user executing the script can't": "NOPERM",
}


#: Refusals that pass; READONLY and MASTERDOWN where a fail-over may have moved the primary.
_TRANSIENT = frozenset({"LOADING", "BUSY", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS"})
_TRANSIENT_DURING_FAILOVER = frozenset({"READONLY", "MASTERDOWN", "UNBLOCKED"})


def clean_message(error: Exception) -> str:
    """Return the text of an error without what only tells where in a script it came up."""
    return _NOISE.sub("", str(error)).lstrip("-").strip() or type(error).__name__


def refusal(error: Exception) -> str | None:
    """Return what Redis says with an error reply, as the end of a sentence; None for an error of another kind.

    An error reply means that nothing was changed by the call.
    """
    if isinstance(error, InvalidResponse):
        return f"is not a Redis: it answered in another protocol ({clean_message(error)})"
    code = error_code(error)
    return f"{_REFUSALS[code]} ({clean_message(error)})" if code in _REFUSALS else None


def is_transient(error: Exception, *, fails_over: bool) -> bool:
    """Tell whether an error reply refuses a call for a moment only; `fails_over`: another server may become the primary."""
    code = error_code(error)
    return code in _TRANSIENT or (fails_over and (code in _TRANSIENT_DURING_FAILOVER or isinstance(error, AskError)))


def error_code(error: Exception) -> str | None:
    """Return the code of an error reply, also one that redis-py has taken out of it; None for an error of another kind."""
    if not isinstance(error, RedisError):
        return None
    text = clean_message(error)
    code = next((code for part, code in _CODES_BY_TEXT.items() if part in text), None)
    code = code or getattr(error, "status_code", None) or text.partition(" ")[0]
    return "WRONGPASS" if code not in _REFUSALS and isinstance(error, AuthenticationError) else code
