"""The data set: many keys, written directly into the hashes of a namespace.

A million calls of `StateManager.set` would take minutes and leave a million events. This module writes what `set` leaves after
its events are trimmed (docs/internals.md, "Keyspace"): canonical JSON, a revision, and the scope in the set of scopes.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from motia_redis._store import codec

if TYPE_CHECKING:
    from collections.abc import Iterable

    import redis

    from motia_redis._store.keyspace import Keyspace

COUNTER = "/visits"  # the member that updates increment
_ITEM = {"sku": "A-104", "count": 2, "price": 19.99}
_FIELDS = 1000  # in one HSET
_DAY = 86_400  # seconds
_COMMANDS = 64  # in one round trip
_BYTES = 8 * 1024 * 1024  # of values in one round trip, approximately


def name(index: int) -> str:
    """Return the key with a number. All keys have the same length."""
    return f"k{index:09d}"


def value(size: int, key: str = name(0)) -> dict[str, Any]:
    """Return a value of `size` bytes of JSON, at least 60: two members, items, and a note that fills the rest."""
    order: dict[str, Any] = {"id": key, "visits": 0, "items": [], "note": ""}
    left = size - len(_encode(order))
    each = len(_encode(_ITEM)) + 1
    order["items"] = [_ITEM] * (left // each)
    order["note"] = "n" * (size - len(_encode(order)))
    return order


def fill(client: redis.Redis, keyspace: Keyspace, scopes: Iterable[str], *, keys: int, size: int) -> float:
    """Store `keys` values of `size` bytes in each scope; return the seconds. Only the `id` of the values differs."""
    began = time.perf_counter()
    before, after = (_encode(value(size)) + codec.CANONICAL_MARK).split(name(0).encode())
    born = b"%d-" % (time.time() * 1000 - 1000)  # older than any later event
    pipeline = client.pipeline(transaction=False)
    held = 0
    for scope in scopes:
        encoded = scope.encode()
        values, revisions = keyspace.values(encoded), keyspace.revisions(encoded)
        step = min(_FIELDS, max(1, _BYTES // size))
        for start in range(0, keys, step):
            texts: list[bytes] = []
            births: list[bytes] = []
            for index in range(start, min(start + step, keys)):
                key = name(index).encode()
                texts += (key, before + key + after)
                births += (key, b"%s%d" % (born, index))
            pipeline.execute_command("HSET", values, *texts)
            pipeline.execute_command("HSET", revisions, *births)
            held += size * len(texts) // 2
            if held > _BYTES or len(pipeline) > _COMMANDS:
                pipeline.execute()
                held = 0
        pipeline.execute_command("SADD", keyspace.scopes(keyspace.partition(encoded)), encoded)
    pipeline.execute()
    return time.perf_counter() - began


def fill_due(client: redis.Redis, keyspace: Keyspace, partition: int, count: int) -> None:
    """Let `count` values of a partition wait for a time to live of a day: their members only, which no value stands behind."""
    due, far = keyspace.due(partition), (time.time() + _DAY) * 1000
    for start in range(0, count, _FIELDS):
        numbers = range(start, min(start + _FIELDS, count))
        client.zadd(due, {f"expiry:0:4:othr{name(number)}": far for number in numbers})


def _encode(part: Any) -> bytes:
    return codec.encode(part, subject="benchmark", max_bytes=sys.maxsize)
