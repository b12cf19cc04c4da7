"""Run updates with a `StateManager` on a redis-server, many for each round trip, and record their effects."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import redis

from motia_redis import StateManager
from motia_redis._scripts import loader, storage
from motia_redis._store.expiry import KEEP
from motia_redis._store.keyspace import Layout
from motia_redis._store.limits import Retention
from motia_redis.errors import StateError, TransactionFailed
from tests.fuzzing.comparison import is_too_long

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from typing import Self

    from tests.fuzzing.cases import Case

BATCH = 128  # cases that run at the same time
SCOPE, BESIDE = "fuzz", "beside{fuzz}"
_SHORT_WAY = "local function lib_direct()\n"


@dataclass(slots=True)
class Observed:
    """The result of an update: what the call returned or raised, and the content of Redis after it."""

    returned: Any
    raised: Exception | None
    stored: bytes | None
    revision: bytes | None
    events: list[tuple[bytes, dict[bytes, bytes]]]
    due: float | None  #: when the key is due, as the sorted set says
    during: tuple[int, int]  #: when the update ran at the earliest and at the latest, in Unix milliseconds
    #: The result without the short way of small updates (lua/lib/direct.lua), if the update may have taken it.
    long_way: Observed | None = None
    #: The result of a transaction in which each operation is an update of its own, beside a change of another scope.
    in_transaction: Observed | None = None
    beside: bytes | None = None  #: what that transaction stored in the other scope


class Runner:
    """Runs cases on a redis-server, many at the same time. An asynchronous context manager."""

    def __init__(self, url: str, namespace: str = "fuzz") -> None:
        # All events are in one stream, which is so long that no event is trimmed before it is read.
        self._state = StateManager(url, namespace=namespace, layout=Layout(1, 1), retention=Retention(entries=100_000))
        self._raw = redis.Redis.from_url(url)
        source = loader.load("mutate").source
        assert source.count(_SHORT_WAY) == 1
        self._without_short_way = loader.Script(source.replace(_SHORT_WAY, _SHORT_WAY + "do return function() end end\n"))

    async def __aenter__(self) -> Self:
        keyspace = await self._state.connect()
        self._keys = keyspace.state_keys(SCOPE.encode(), b"0")
        self._due = keyspace.due(0)
        self._beside = keyspace.values(BESIDE.encode())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._state.close()
        self._raw.close()

    async def run(self, cases: Sequence[Case]) -> list[Observed]:
        """Store the text of each case, run all updates, and return their results."""
        results = await self._run({b"%d" % index: case for index, case in enumerate(cases)})
        both = {  # two runs give a ttl in seconds at different times
            b"%d" % index: case
            for index, case in enumerate(cases)
            if case.is_canonical and len(case.operations) == 1 and case.ttl in (KEEP, None)
        }
        if both:
            with patch.object(storage, "_MUTATE", self._without_short_way):
                others = await self._run(both)
            for name, other in zip(both, others, strict=True):
                results[int(name)].long_way = other
        fitting = {
            b"%d" % index: case
            for index, (case, seen) in enumerate(zip(cases, results, strict=True))
            # Several updates are parsed several times.
            if not (isinstance(seen.raised, StateError) and is_too_long(case, seen.raised)) and len(case.text or b"") < 20_000
        }
        transactions = await self._run(fitting, self._update_in_transaction)
        beside: Any = self._raw.hmget(self._beside, [b"", *fitting])
        for name, other, text in zip(fitting, transactions, beside[1:], strict=True):
            results[int(name)].in_transaction, other.beside = other, text
        return results

    async def _update(self, name: str, case: Case) -> Any:
        return await self._state.update(SCOPE, name, case.operations, strict=case.strict, ttl=case.ttl)

    async def _update_in_transaction(self, name: str, case: Case) -> Any:
        """Make each operation an update of its own. An error names the operation as that of a single update does."""
        calls = 0
        try:
            async with self._state.transaction() as tx:
                for operations in [[operation] for operation in case.operations] or [[]]:
                    tx.update(SCOPE, name, operations, strict=case.strict, ttl=case.ttl)
                    calls += 1
                tx.set(BESIDE, name, name)
        except StateError as error:
            cause, number = (error.__cause__, error.index) if isinstance(error, TransactionFailed) else (error, calls)
            raise type(cause)(str(cause).replace("operation 0", f"operation {number}")) from None
        return tx.values[SCOPE, name]

    async def _run(
        self, named: Mapping[bytes, Case], update: Callable[[str, Case], Awaitable[Any]] | None = None
    ) -> list[Observed]:
        """Run the update of each case on the key of its name."""
        update = update or self._update
        names, cases = list(named), list(named.values())
        with self._raw.pipeline(transaction=False) as pipeline:
            pipeline.delete(self._keys.values, self._keys.revisions, self._due, self._beside)
            stored = {
                name: case.text for name, case in zip(names, cases, strict=True) if case.text is not None and not case.by_set
            }
            if stored:
                pipeline.hset(self._keys.values, mapping=stored)
            pipeline.execute()
        set_by_us = [(name, case) for name, case in zip(names, cases, strict=True) if case.by_set]
        await asyncio.gather(*(self._state.set(SCOPE, name.decode(), case.value) for name, case in set_by_us))
        for name, case in set_by_us:
            found = self._raw.hget(self._keys.values, name)
            assert found == case.text, f"set stored {found!r}, not {case.text!r}"
        self._raw.xtrim(self._keys.events, maxlen=0, approximate=False)
        with self._raw.pipeline(transaction=False) as pipeline:
            if names:
                # An old revision, so that a new one differs from it.
                pipeline.hset(
                    self._keys.revisions,
                    mapping={name: b"1-1" for name, case in zip(names, cases, strict=True) if case.text} | {b"": b""},
                )
            pipeline.execute()
        began = int(time.time() * 1000)
        outcomes = await asyncio.gather(
            *(update(name.decode(), case) for name, case in zip(names, cases, strict=True)),
            return_exceptions=True,
        )
        during = (began - 1, int(time.time() * 1000) + 1)
        with self._raw.pipeline(transaction=False) as pipeline:
            pipeline.hmget(self._keys.values, names)
            pipeline.hmget(self._keys.revisions, names)
            pipeline.xrange(self._keys.events)
            pipeline.zrange(self._due, 0, -1, withscores=True)
            texts, revisions, entries, members = pipeline.execute()
        due = {member.rpartition(b":")[2].removeprefix(SCOPE.encode()): score for member, score in members}
        events: dict[bytes, list[Any]] = {name: [] for name in names}
        for entry_id, fields in entries:
            if fields[b"scope"] == SCOPE.encode():
                events[fields[b"key"]].append((entry_id, fields))
        return [
            Observed(
                None if isinstance(outcome, BaseException) else outcome,
                outcome if isinstance(outcome, Exception) else None,
                text, revision, events[name], due.get(name), during,
            )
            for name, outcome, text, revision in zip(names, outcomes, texts, revisions, strict=True)
        ]  # fmt: skip
