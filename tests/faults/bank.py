"""Accounts whose sum never changes, the transfers between them, and audits while transfers go on."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter, defaultdict
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from motia_redis._steps.events import decode_change
from motia_redis.errors import StateUnavailable, TransactionFailed
from tests.support.waiting import until_holds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import redis

    from motia_redis import StateManager
    from motia_redis.types import TransactionInfo
    from tests.support.gates import Gate

SCOPES = ("{bank}/private", "{bank}/business")
ACCOUNTS = [(scope, str(number)) for scope in SCOPES for number in range(5)]
DONE = "{bank}/done"
TASKS, START = 64, 1000
DEADLINE = 120.0  # seconds; faults hold up all transfers of a connection for seconds
_HOLD = 2.0  # seconds for which an audit holds transfers back at most: less than their deadline, and than a record stays


class Bank:
    """Makes transfers through `state`, and audits through `audits_by`, which has a connection of its own."""

    def __init__(self, state: StateManager, audits_by: StateManager, gate: Gate) -> None:
        self.state, self.audits_by, self.gate = state, audits_by, gate
        self.acknowledged: set[str] = set()
        self.refused: set[str] = set()  # calls with a failing item
        self.unknown: set[str] = set()  # calls that failed, and may have been applied
        self.impossible: set[str] = set()  # calls with an item that always fails
        self.audits = 0  # sums that a transaction of checks alone has confirmed while transfers waited

    async def open(self) -> None:
        for scope, key in ACCOUNTS:
            await self.state.set(scope, key, {"n": START})

    async def transfer(self, name: str, *, guarded: bool = True, possible: bool = True) -> None:
        """Make a transfer. A guarded one requires that it was not made before. One that is not possible has a failing item."""
        source, target = random.sample(ACCOUNTS, 2)
        amount = random.randrange(1, 100)
        if not possible:
            self.impossible.add(name)
        try:
            async with self.state.transaction() as tx:
                if guarded:
                    tx.check(DONE, name, None)
                tx.update(*source, [{"op": "decrement", "path": "/n", "value": amount}])
                if not possible:
                    tx.update(*source, [{"op": "test", "path": "/n", "value": "no number"}])
                tx.update(*target, [{"op": "increment", "path": "/n", "value": amount}])
                tx.set(DONE, name, amount)
        except StateUnavailable:
            self.unknown.add(name)
        except TransactionFailed:
            self.refused.add(name)
        else:
            self.acknowledged.add(name)

    async def audit(self) -> bool:
        """Read the accounts, and return whether all of them were there at one moment. If they were, the sum must be right."""
        try:
            entries = {place: await self.audits_by.entry(*place) for place in ACCOUNTS}
            async with self.audits_by.transaction() as tx:
                for place, entry in entries.items():
                    tx.check(*place, entry.revision if entry else None)
        except (TransactionFailed, StateUnavailable):
            return False
        assert sum(entry.value["n"] for entry in entries.values() if entry) == START * len(ACCOUNTS), "a transfer was torn"
        return True

    async def audit_among_transfers(self) -> None:
        """Make an audit while transfers wait to be sent. It is confirmed when those that were sent before have ended."""
        with suppress(TimeoutError):
            async with self.gate.closed(), asyncio.timeout(_HOLD):
                while not await self.audit():
                    pass
                assert self.gate.waiting
                self.audits += 1

    async def acknowledge(self, more: int) -> None:
        """Wait until more transfers are acknowledged."""
        enough = len(self.acknowledged) + more
        await until_holds(lambda: len(self.acknowledged) >= enough, f"{more} more transfers", deadline=DEADLINE)

    async def confirm(self, more: int) -> None:
        """Wait until more audits are confirmed."""
        enough = self.audits + more
        await until_holds(lambda: self.audits >= enough, f"{more} more audits", deadline=DEADLINE)

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """Make transfers in many tasks during the block, and audits beside them."""
        open_ = True

        async def work(task: int) -> None:
            for turn in itertools.count():
                if not open_:
                    break
                await self.transfer(f"{task}-{turn}", guarded=turn % 2 == 0, possible=turn % 5 != 4)

        async def watch() -> None:
            while True:
                await self.audit_among_transfers()
                await self.acknowledge(10)

        async with asyncio.TaskGroup() as group:
            for task in range(TASKS):
                group.create_task(work(task))
            watching = group.create_task(watch())
            yield
            open_ = False
            watching.cancel()

    async def check(self, *nodes: redis.Redis) -> None:
        """Assert that each transfer was applied once or not at all, and as one transaction, by the events on all nodes."""
        assert await self.audit()
        done = set(await self.audits_by.keys(DONE))
        assert not self.acknowledged & self.impossible, "a transfer with a failing item was acknowledged"
        assert not self.refused & done, "a refused transfer was applied"
        assert self.refused <= self.impossible, "a transfer without a failing item was refused"
        assert self.acknowledged <= done, "an acknowledged transfer is missing"
        assert done <= self.acknowledged | self.unknown - self.impossible
        pattern = f"{{{self.state.namespace}:*}}:events:*"
        entries: list[Any] = [entry for node in nodes for stream in node.scan_iter(pattern) for entry in node.xrange(stream)]
        changes = [decode_change(entry.decode(), fields) for entry, fields in entries]
        parts: dict[str, list[TransactionInfo]] = defaultdict(list)
        places: dict[str, Counter[str]] = defaultdict(Counter)
        for change in changes:
            if change.transaction:
                parts[change.transaction.id].append(change.transaction)
                places[change.transaction.id][change.group_id if change.group_id == DONE else "account"] += 1
        assert len(parts) == len(done), "as many transactions as transfers"
        for name, infos in parts.items():
            assert sorted((info.index, info.size) for info in infos) == [(0, 3), (1, 3), (2, 3)], "events are missing or doubled"
            assert places[name] == {"account": 2, DONE: 1}
