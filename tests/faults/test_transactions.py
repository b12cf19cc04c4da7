"""Transactions are applied once and as one step (G4, G11), while the network fails and redis-server is killed."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import StateManager
from motia_redis._scripts import storage
from motia_redis._scripts.loader import Script
from motia_redis._store.limits import Retention
from motia_redis._store.mutations import Mutations
from tests.faults.bank import DEADLINE, TASKS, Bank
from tests.faults.proxy import FAULTS, FaultProxy
from tests.faults.worker_processes import FULL
from tests.support.clusters import Process, free_port
from tests.support.gates import Gate
from tests.support.waiting import until_holds, within_deadline

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

pytestmark = pytest.mark.alone

ALL = Retention(entries=1_000_000)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Process]:
    server = Process(tmp_path / "redis", free_port(), "--save", "", "--appendonly", "yes", "--appendfsync", "always")
    try:
        server.start()
        yield server
    finally:
        server.end()


@asynccontextmanager
async def open_bank(server: Process, monkeypatch: pytest.MonkeyPatch, port: int | None = None) -> AsyncIterator[Bank]:
    """Open a bank whose transfers go through `port`."""
    url = "redis://127.0.0.1:"
    async with (
        StateManager(f"{url}{port or server.port}", retention=ALL) as state,
        StateManager(f"{url}{server.port}") as audits_by,
    ):
        bank = Bank(state, audits_by, Gate(monkeypatch))
        await bank.open()
        yield bank


def transact_calls() -> set[bytes]:
    """Return how commands name the script of transactions."""
    script = storage._TRANSACT
    return {name.encode() for name in (script.function, script.sha) if name}


async def test_transfers_are_whole_and_made_once_through_network_faults_and_kills(
    server: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    transfers, kills, audits = (60 * TASKS, 6, 60) if FULL else (4 * TASKS, 1, 6)
    async with FaultProxy(server.port, rate=0.03, seed=transfers, delay=3.5, scripts=transact_calls()) as proxy:
        async with open_bank(server, monkeypatch, proxy.port) as bank, bank.busy():
            for _ in range(kills):
                await bank.acknowledge(TASKS)
                await bank.confirm(1)
                server.kill()
                await asyncio.to_thread(server.start)
            await bank.acknowledge(TASKS)
            await bank.confirm(1)
            await until_holds(
                lambda: set(proxy.injected) == set(FAULTS) and len(bank.acknowledged) >= transfers and bank.audits >= audits,
                "each kind of fault was injected, among enough transfers and audits",
                deadline=DEADLINE * (10 if FULL else 1),
            )
        await proxy.drain()
    async with StateManager(f"redis://127.0.0.1:{server.port}") as state:
        bank.audits_by = state
        await bank.check(server.client)
    assert bank.refused
    print(
        f"{kills} kills, faults {dict(proxy.injected)}: {len(bank.acknowledged)} acknowledged, {len(bank.refused)} refused, "
        f"{len(bank.unknown)} unknown, {bank.audits} audits"
    )


class TornTransfers:
    """Makes a build that applies a transaction with four items, a transfer, in two scripts. It waits between them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.half = asyncio.Event()  #: a transfer was applied by half
        self.go_on = asyncio.Event()
        transact = Mutations.transact

        async def torn(mutations: Mutations, items: Sequence[Any], most_bytes: int, idempotency_key: str | None) -> Any:
            if len(items) != 4:
                return await transact(mutations, items, most_bytes, idempotency_key)
            first = await transact(mutations, items[:2], most_bytes, idempotency_key)
            self.half.set()
            await self.go_on.wait()
            second = await transact(mutations, items[2:], most_bytes, idempotency_key)
            return first._replace(words=[*first.words, *second.words], texts=[*first.texts, *second.texts])

        monkeypatch.setattr(Mutations, "transact", torn)


async def test_build_that_applies_a_transaction_in_two_scripts_is_detected(
    server: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = TornTransfers(monkeypatch)
    async with open_bank(server, monkeypatch) as bank:
        assert await bank.audit()
        transfer = asyncio.create_task(bank.transfer("one"))
        await within_deadline(build.half.wait())
        with pytest.raises(AssertionError, match="a transfer was torn"):
            await bank.audit()
        build.go_on.set()
        await transfer
        assert await bank.audit(), "the sum is right again"
        with pytest.raises(AssertionError, match="as many transactions as transfers"):
            await bank.check(server.client)


async def test_audit_among_transfers_detects_a_build_that_applies_them_in_two_scripts(
    server: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = TornTransfers(monkeypatch)
    build.go_on.set()
    async with open_bank(server, monkeypatch) as bank:
        with pytest.RaisesGroup(pytest.RaisesExc(AssertionError, match="a transfer was torn"), flatten_subgroups=True):
            async with bank.busy():
                # The gate closes while some of the transfers are between their scripts.
                await bank.acknowledge(1_000_000)


@pytest.mark.parametrize(
    ("replacements", "message"),
    [
        pytest.param(
            [("if failure then\n", "if false then\n"), ('if not failure and (kind == "update"', 'if (kind == "update"')],
            "a transfer with a failing item was acknowledged",
            id="leaves out a failing item",
        ),
        pytest.param(
            [
                ('fail("TRANSACTION " .. index - 1', 'failed = failed or ("TRANSACTION " .. index - 1'),
                ("local function plan_all()", "local failed\nlocal function plan_all()"),
                ("local dropped = trim(", "if failed then return { err = failed } end\n  local dropped = trim("),
            ],
            "a refused transfer was applied",
            id="applies the items beside a failing one",
        ),
        pytest.param(
            [('redis.call("SET", request_record, "1', 'local _ = ("1'), (', "PX", lifetime)', ")")],
            "a refused transfer was applied|events are missing or doubled",
            id="leaves no record of a request",
        ),
    ],
)
async def test_build_with_a_defect_in_the_script_is_detected(
    server: Process, monkeypatch: pytest.MonkeyPatch, replacements: list[tuple[str, str]], message: str
) -> None:
    text = storage._TRANSACT.source
    for old, new in replacements:
        assert text.count(old) == 1, f"transact.lua no longer contains {old!r} once: adapt this test"
        text = text.replace(old, new)
    monkeypatch.setattr(storage, "_TRANSACT", Script(text))
    # Replies are lost: so the client repeats transfers that were applied.
    async with FaultProxy(server.port, rate=0.1, seed=3, delay=0, faults=("after",), scripts=transact_calls()) as proxy:
        async with open_bank(server, monkeypatch, proxy.port) as bank, bank.busy():
            await until_holds(lambda: proxy.injected["after"] >= 20, "20 replies are lost", deadline=DEADLINE)
            await bank.acknowledge(TASKS)
        async with StateManager(f"redis://127.0.0.1:{server.port}") as state:
            bank.audits_by = state
            with pytest.raises(AssertionError, match=message):
                await bank.check(server.client)
