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

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from tests.fuzzing.cases import Case

BATCH = 128  # cases that run at the same time
SCOPE = "fuzz"
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
        return results

    async def _run(self, named: Mapping[bytes, Case]) -> list[Observed]:
        """Run the update of each case on the key of its name."""
        names, cases = list(named), list(named.values())
        with self._raw.pipeline(transaction=False) as pipeline:
            pipeline.delete(self._keys.values, self._keys.revisions, self._due)
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
            *(
                self._state.update(SCOPE, name.decode(), case.operations, strict=case.strict, ttl=case.ttl)
                for name, case in zip(names, cases, strict=True)
            ),
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
            events[fields[b"key"]].append((entry_id, fields))
        return [
            Observed(
                None if isinstance(outcome, BaseException) else outcome,
                outcome if isinstance(outcome, Exception) else None,
                text, revision, events[name], due.get(name), during,
            )
            for name, outcome, text, revision in zip(names, outcomes, texts, revisions, strict=True)
        ]  # fmt: skip
