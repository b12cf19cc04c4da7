"""Transactions are applied once and as one step (G4, G11), while the network fails and redis-server is killed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import pytest
import redis

from motia_redis import StateManager
from motia_redis._steps.events import decode_change
from motia_redis._store.limits import Retention
from motia_redis._store.mutations import Mutations
from motia_redis.errors import StateUnavailable, TransactionFailed
from tests.faults.proxy import FAULTS, FaultProxy
from tests.faults.worker_processes import FULL
from tests.support.clusters import Process, free_port

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from motia_redis.types import TransactionInfo

pytestmark = pytest.mark.alone

ALL = Retention(entries=1_000_000)
SCOPES = ("{bank}/private", "{bank}/business")
ACCOUNTS = [(scope, str(number)) for scope in SCOPES for number in range(5)]
DONE = "{bank}/done"
TASKS, START = 64, 1000


class Bank:
    """Accounts whose sum never changes, and the transfers between them."""

    def __init__(self, state: StateManager) -> None:
        self.state = state
        self.acknowledged: set[str] = set()
        self.unknown: set[str] = set()  # calls that failed, and may have been applied
        self.audits = 0  # sums that a transaction of checks alone has confirmed

    async def open(self) -> None:
        for scope, key in ACCOUNTS:
            await self.state.set(scope, key, {"n": START})

    async def transfer(self, name: str) -> None:
        source, target = random.sample(ACCOUNTS, 2)
        amount = random.randrange(1, 100)
        try:
            async with self.state.transaction() as tx:
                tx.check(DONE, name, None)
                tx.update(*source, [{"op": "decrement", "path": "/n", "value": amount}])
                tx.update(*target, [{"op": "increment", "path": "/n", "value": amount}])
                tx.set(DONE, name, amount)
        except StateUnavailable:
            self.unknown.add(name)
        else:
            self.acknowledged.add(name)

    async def audit(self) -> None:
        """Read the accounts one after the other. If all of them were there at one moment, the sum is right."""
        try:
            entries = {place: await self.state.entry(*place) for place in ACCOUNTS}
            async with self.state.transaction() as tx:
                for place, entry in entries.items():
                    assert entry
                    tx.check(*place, entry.revision)
        except (TransactionFailed, StateUnavailable):
            return
        assert sum(entry.value["n"] for entry in entries.values() if entry) == START * len(ACCOUNTS), "a transfer was torn"
        self.audits += 1

    async def check(self, *nodes: redis.Redis) -> None:
        """Assert that each transfer was applied once or not at all, and as one transaction, by the events on all nodes."""
        await self.audit()
        assert self.audits
        done = await self.state.items(DONE)
        assert self.acknowledged <= set(done) <= self.acknowledged | self.unknown
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


async def run(bank: Bank, rounds: int, faults: asyncio.Task[None] | None = None) -> None:
    """Make transfers in many tasks, and audits beside them."""

    async def work(task: int) -> None:
        for turn in range(rounds):
            await bank.transfer(f"{task}-{turn}")

    async def watch() -> None:
        while True:
            await bank.audit()
            await asyncio.sleep(0.005)

    watching = [asyncio.create_task(watch()) for _ in range(4)]
    try:
        await asyncio.gather(*(work(task) for task in range(TASKS)))
        if faults:
            await faults
    finally:
        for each in watching:
            each.cancel()
        ended = await asyncio.gather(*watching, return_exceptions=True)
    assert not [error for error in ended if isinstance(error, Exception)], ended


async def test_transfers_are_whole_and_made_once_through_network_faults_and_kills(tmp_path: Path) -> None:
    rounds, kills = (60, 6) if FULL else (6, 1)
    server = Process(tmp_path / "redis", free_port(), "--save", "", "--appendonly", "yes", "--appendfsync", "always")
    try:
        server.start()
        async with FaultProxy(server.port, rate=0.03, seed=rounds, delay=3.5) as proxy:
            async with StateManager(f"redis://127.0.0.1:{proxy.port}", retention=ALL) as state:
                bank = Bank(state)
                await bank.open()

                async def kill() -> None:
                    for _ in range(kills):
                        await asyncio.sleep(random.uniform(0.5, 1.5))
                        server.kill()
                        await asyncio.to_thread(server.start)

                await run(bank, rounds, asyncio.create_task(kill()))
            await proxy.drain()
            faults = proxy.injected.copy()
        async with StateManager(f"redis://127.0.0.1:{server.port}") as state:
            bank.state = state
            with redis.Redis(port=server.port) as raw:
                await bank.check(raw)
    finally:
        server.end()
    assert set(faults) <= set(FAULTS)
    assert faults
    print(
        f"{TASKS * rounds} transfers, {kills} kills, faults {dict(faults)}: {len(bank.acknowledged)} acknowledged, "
        f"{len(bank.unknown)} unknown, {bank.audits} audits"
    )


async def test_build_that_applies_a_transaction_in_two_scripts_is_detected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transact = Mutations.transact

    async def torn(self: Mutations, items: Sequence[Any], most_bytes: int, idempotency_key: str | None) -> Any:
        if len(items) != 4:
            return await transact(self, items, most_bytes, idempotency_key)
        first = await transact(self, items[:2], most_bytes, idempotency_key)
        second = await transact(self, items[2:], most_bytes, idempotency_key)
        return first._replace(words=[*first.words, *second.words], texts=[*first.texts, *second.texts])

    monkeypatch.setattr(Mutations, "transact", torn)
    server = Process(tmp_path / "redis", free_port(), "--save", "")
    try:
        server.start()
        async with StateManager(f"redis://127.0.0.1:{server.port}", retention=ALL) as state:
            bank = Bank(state)
            await bank.open()
            await bank.transfer("one")
            with redis.Redis(port=server.port) as raw, pytest.raises(AssertionError, match="as many transactions as transfers"):
                await bank.check(raw)
    finally:
        server.end()
