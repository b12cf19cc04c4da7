"""Cluster and Sentinel (G3, G4, G5): all calls work there, also while slots migrate and after the loss of a primary."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from redis.crc import key_slot

from motia_redis import Retention, StateManager, queue, step
from motia_redis import state as state_trigger
from motia_redis._admin.dead_letters import DeadLetters
from motia_redis._admin.doctor import examine
from motia_redis._admin.registry import forget_step
from motia_redis._admin.status import read_status
from motia_redis._store.keyspace import layout_key
from motia_redis.admin import pause_step, resume_step, seek_step
from motia_redis.errors import StateError, StateUnavailable
from tests.faults.bank import TASKS, Bank
from tests.faults.worker_processes import FULL
from tests.support.clusters import Cluster, Process, Sentinels, free_port
from tests.support.dead_letters import FailingHandler, failing_step, wait_for_dead_letters
from tests.support.gates import Gate
from tests.support.waiting import until, until_holds, wait_until
from tests.support.workers import Recorder, record, working

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = pytest.mark.alone

INCREMENT = [{"op": "increment", "path": "/n", "value": 1}]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@asynccontextmanager
async def load(state: StateManager, scopes: int) -> AsyncIterator[Counter[int]]:
    """Increment a counter in each scope during the block, one task for each scope; yield the acknowledged increments."""
    done: Counter[int] = Counter()
    stop = asyncio.Event()

    async def count(number: int) -> None:
        while not stop.is_set():
            await state.update(f"scope{number}", "counter", INCREMENT)
            done[number] += 1

    tasks = [asyncio.create_task(count(number)) for number in range(scopes)]
    try:
        yield done
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def counters(state: StateManager, scopes: int) -> dict[int, int]:
    """Return the counter of each scope."""
    values = [await state.get(f"scope{number}", "counter") for number in range(scopes)]
    return {number: value["n"] for number, value in enumerate(values)}


# -- Cluster ------------------------------------------------------------------------------------------------------------------


async def test_all_methods_work_on_a_cluster_and_scopes_spread_over_its_nodes(cluster: Cluster, namespace: str) -> None:
    async with StateManager(cluster.url, namespace=namespace) as state:
        for number in range(32):
            await state.set(f"scope{number}", "ann", {"n": number})
        assert sorted(await state.list_groups()) == sorted(f"scope{number}" for number in range(32))
        assert all(node.client.keys(f"{{{namespace}:*}}:state:*") for node in cluster.processes), "a node holds no scope"
        assert await state.update("scope1", "ann", INCREMENT, idempotency_key="a") == {"n": 2}
        assert await state.update("scope1", "ann", INCREMENT, idempotency_key="a") == {"n": 2}
        entry = await state.entry("scope1", "ann")
        assert entry is not None
        await state.set("scope1", "ann", {"n": 5}, if_revision=entry.revision)
        assert await state.list("scope1") == [{"n": 5}]
        for number in range(1, 32):
            await state.modify(f"scope{number}", "bob", lambda value: value or "new")
            for atomic in (True, False):
                assert list(await state.get_many(f"scope{number}", ["bob", "ann", "cy"], atomic=atomic)) == ["bob", "ann"]
            await state.delete(f"scope{number}", "bob")
        await state.clear("scope1")
        assert await state.get("scope1", "ann") is None
        assert await state.delete("scope2", "ann") == {"n": 2}
        for node in cluster.processes:
            node.client.script_flush()
        assert await state.update("scope3", "ann", INCREMENT) == {"n": 4}
        found = await examine(state)
        assert len(found.servers) == 3
        assert not found.has_failed
        assert {line.outcome for line in found.findings} == {"ok"}, "clocks, layout and samples work over all nodes"


async def test_cluster_url_with_one_node_finds_the_other_nodes(cluster: Cluster, namespace: str) -> None:
    async with StateManager(f"redis+cluster://127.0.0.1:{cluster.processes[2].port}", namespace=namespace) as state:
        for number in range(16):
            await state.set(f"scope{number}", "ann", number)
        assert len(await state.list_groups()) == 16


async def test_plain_url_of_a_cluster_node_is_rejected(cluster: Cluster, namespace: str) -> None:
    for node in cluster.processes:
        state = StateManager(f"redis://127.0.0.1:{node.port}", namespace=namespace)
        calls = (state.set(f"scope{number}", "ann", number) for number in range(32))
        errors = [str(outcome) for outcome in await asyncio.gather(*calls, return_exceptions=True) if outcome is not None]
        assert any("use redis+cluster://" in text for text in errors)
        await state.close()


async def test_cluster_and_sentinel_urls_of_a_single_redis_are_rejected(tmp_path_factory: pytest.TempPathFactory) -> None:
    server = Process(tmp_path_factory.mktemp("single") / "server", free_port(), "--save", "")
    try:
        server.start()
        with pytest.raises(StateUnavailable, match="is not a node of a Cluster: use redis://"):
            await StateManager(f"redis+cluster://127.0.0.1:{server.port}").connect()
        with pytest.raises(StateUnavailable, match="is not a sentinel"):
            await StateManager(f"redis+sentinel://127.0.0.1:{server.port}/mymaster").connect()
    finally:
        server.end()


async def test_steps_are_paused_limited_and_moved_on_a_cluster(cluster: Cluster, namespace: str) -> None:
    recorder = Recorder()
    limited = record(recorder, state_trigger(), queue("mail"), concurrency=2, rate="1000/s")
    async with StateManager(cluster.url, namespace=namespace) as state, working(state, limited, workers=2) as team:
        for number in range(64):
            await state.set(f"scope{number % 16}", f"key{number}", number)
        await state.enqueue("mail", "hello")
        await recorder.wait(65)
        await pause_step(state, "Record")
        await until_holds(lambda: all("Record" in worker._run.membership.paused for worker in team), "they know")  # type: ignore[union-attr]

        async def is_recorded() -> bool:
            (found,) = (await read_status(state)).steps
            return found.lag + found.pending == 0

        await until(is_recorded, "all is recorded")
        sought = await seek_step(state, "Record", 0.0)
        assert sought.again == 65
        assert len(recorder.inputs) == 65
        await resume_step(state, "Record")
        await recorder.wait(130)


async def test_triggers_dead_letters_and_status_work_on_a_cluster(cluster: Cluster, namespace: str) -> None:
    recorder, failing = Recorder(), FailingHandler()
    steps = [
        record(recorder, state_trigger(), queue("mail")),
        failing_step(failing, "Sick", state_trigger(scope="scope3")),
    ]
    async with StateManager(cluster.url, namespace=namespace) as state:
        letters = DeadLetters(state)
        async with working(state, *steps, workers=2):
            for number in range(64):
                await state.set(f"scope{number % 16}", f"key{number}", number)
            await state.enqueue("mail", "hello")
            await recorder.wait(65)
            found = await wait_for_dead_letters(letters, 4)
            status = await read_status(state)
            assert [(step.name, step.dead_letters) for step in status.steps] == [("Record", 0), ("Sick", 4)]
            assert len(status.workers) == 2
            failing.fixed = True
            await letters.retry("Sick", found[0].id)
            await failing.received.wait(1)
            await letters.drop("Sick", found[1].id)
            assert await letters.retry_all() == (2, [])
            await failing.received.wait(3)
            assert await letters.count() == 0
        await forget_step(state, "Sick")
        assert [step.name for step in (await read_status(state)).steps] == ["Record"]
    values = [i.new_value for i in recorder.inputs if not isinstance(i, str)]
    assert sorted(values) == list(range(64))


async def test_slot_migration_under_load_loses_no_change_and_no_event(cluster: Cluster, namespace: str) -> None:
    scopes, rounds = 16, 8 if FULL else 1
    recorder = Recorder()
    async with StateManager(cluster.url, namespace=namespace) as state:
        async with working(state, record(recorder, state_trigger())):
            async with load(state, scopes) as done:
                moved = 0
                for _ in range(rounds):
                    for partition in range(16):
                        slot = key_slot(f"{{{namespace}:{partition}}}".encode())
                        target = (cluster.owner(slot) + 1) % 3
                        await asyncio.to_thread(cluster.migrate, slot, target, during=lambda: time.sleep(0.02))
                        moved += 1
                    assert len(await state.list_groups()) == scopes, "list_groups left out a scope during the migration"
            acknowledged = sum(done.values())
            await recorder.wait(acknowledged)
        assert await counters(state, scopes) == dict(sorted(done.items()))
    seen: dict[str, list[int]] = {}
    for change in recorder.inputs:
        seen.setdefault(change.group_id, []).append(change.new_value["n"])
    for number, count in done.items():
        assert list(dict.fromkeys(seen[f"scope{number}"])) == list(range(1, count + 1)), "an event is missing or out of order"
    print(f"{moved} slots moved under load: {acknowledged} increments, none lost, {len(recorder.inputs)} events handled")


async def test_effects_are_made_once_and_their_records_freed_while_slots_move(cluster: Cluster, namespace: str) -> None:
    jobs, accounts, finished = 100, 20, Counter[str]()

    async def handler(input: Any, ctx: Any) -> None:
        number = int(input.item_id)
        await ctx.state.update(f"account{number % accounts}", "sum", INCREMENT)
        await ctx.state.update(f"account{(number + 7) % accounts}", "sum", INCREMENT)
        await ctx.enqueue({"topic": f"receipts{number % accounts}", "data": number})
        if ctx.trigger.attempt < 3:
            raise ValueError("a crash behind the last change")
        finished[input.item_id] += 1

    recorder = Recorder()
    receipts = record(recorder, *(queue(f"receipts{number}") for number in range(accounts)))
    triggers = [state_trigger(scope="jobs")]
    once = step({"name": "Once", "triggers": triggers, "effects_once": True, "backoff": 0.2}).handle(handler)
    async with StateManager(cluster.url, namespace=namespace) as state:
        async with working(state, once, receipts):
            for number in range(jobs):
                await state.set("jobs", str(number), number)
            for partition in range(16):
                slot = key_slot(f"{{{namespace}:{partition}}}".encode())
                await asyncio.to_thread(cluster.migrate, slot, (cluster.owner(slot) + 1) % 3, during=lambda: time.sleep(0.02))

            async def freed() -> bool:
                kept = [key for node in cluster.processes for key in node.client.keys(f"{{{namespace}:*}}:effects:*")]
                return len(finished) == jobs and not kept

            await until(freed, "all jobs are done, and no record is left")
            await recorder.wait(jobs)
        sums = [await state.get(f"account{number}", "sum") for number in range(accounts)]
    assert sums == [{"n": 2 * jobs // accounts}] * accounts
    assert sorted(recorder.inputs) == list(range(jobs))


async def test_transactions_are_whole_while_their_slot_moves(
    cluster: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with StateManager(cluster.url, namespace=namespace, retention=Retention(entries=1_000_000)) as state:
        bank = Bank(state, state, Gate(monkeypatch))
        await bank.open()
        slot = key_slot((await state.connect()).values(b"{bank}/a"))
        async with bank.busy():
            for _ in range(24 if FULL else 4):
                await bank.acknowledge(TASKS)
                await bank.confirm(1)
                await asyncio.to_thread(cluster.migrate, slot, (cluster.owner(slot) + 1) % 3, during=lambda: time.sleep(0.1))
            await bank.acknowledge(TASKS)
        assert not bank.unknown
        await bank.check(*(node.client for node in cluster.processes))


async def test_values_expire_once_while_their_slots_move_and_are_changed(cluster: Cluster, namespace: str) -> None:
    recorder, scopes, keys = Recorder(), 16, 6
    stop = asyncio.Event()
    async with (
        StateManager(cluster.url, namespace=namespace) as state,
        working(state, record(recorder, state_trigger()), workers=2),
    ):

        async def change(number: int) -> None:
            while not stop.is_set():
                key = f"key{random.randrange(keys)}"
                await state.set(f"scope{number}", key, {"n": 0}, ttl=random.choice((0.02, 0.1)))
                await state.update(f"scope{number}", key, INCREMENT)
                await asyncio.sleep(0.02)

        tasks = [asyncio.create_task(change(number)) for number in range(scopes)]
        for partition in range(0, 16, 1 if FULL else 4):
            slot = key_slot(f"{{{namespace}:{partition}}}".encode())
            await asyncio.to_thread(cluster.migrate, slot, (cluster.owner(slot) + 1) % 3, during=lambda: time.sleep(0.1))
        stop.set()
        await asyncio.gather(*tasks)
        for number in range(scopes):
            for each in range(keys):  # an update that met an expired value has created one that never expires
                await state.expire(f"scope{number}", f"key{each}", 0.1)
            await state.set(f"scope{number}", "last", {"n": 0}, ttl=0.1)

        async def all_handled() -> bool:
            ended = {change.group_id for change in recorder.inputs if change.item_id == "last" and change.reason == "expired"}
            return len(ended) == scopes and await state.list_groups() == []

        await until(all_handled, "the last value of each scope has expired")
    chains: dict[tuple[str, str], dict[str, Any]] = {}
    for change in recorder.inputs:
        chains.setdefault((change.group_id, change.item_id), {}).setdefault(change.revision, change)
    expiries = 0
    for name, changes in chains.items():
        last = None
        for change in changes.values():
            assert change.old_value == last, f"{name}: {change} does not start from {last}"
            last = change.new_value
            expiries += change.reason == "expired"
        assert last is None
    print(f"{expiries} expiries of {len(chains)} keys while slots moved")
    assert expiries >= scopes


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "stopped"])
async def test_partitions_of_the_other_nodes_go_on_while_one_node_is_down(
    tmp_path: Path, namespace: str, is_killed: bool
) -> None:
    recorder = Recorder()
    with Cluster(tmp_path, "--cluster-require-full-coverage", "no") as cluster:
        async with StateManager(cluster.url, namespace=namespace) as state:
            keyspace = await state.connect()
            places = {f"scope{each}": cluster.owner(key_slot(keyspace.values(b"scope%d" % each))) for each in range(40)}
            common = {cluster.owner(key_slot(key)) for key in (keyspace.workers, layout_key(namespace).encode())}
            down = next(node for node in places.values() if node not in common)
            topics = {f"topic{each}": cluster.owner(key_slot(keyspace.topic(b"topic%d" % each, 0))) for each in range(40)}
            healthy = [scope for scope, node in places.items() if node != down]
            async with working(state, record(recorder, state_trigger())):
                for scope in healthy:
                    await state.set(scope, "key", 0)
                await recorder.wait(len(healthy))
                if is_killed:
                    cluster.processes[down].kill()
                else:
                    cluster.processes[down].signal(signal.SIGSTOP)
                await asyncio.sleep(4)  # longer than the lease
                for scope in healthy:
                    await state.set(scope, "key", 1)
                await recorder.wait(2 * len(healthy))
                up = {topic for topic, node in topics.items() if node != down}
                for topic in up:
                    await state.enqueue(topic, 1, delay=0.1)
                nodes = [node for number, node in enumerate(cluster.processes) if number != down]

                async def all_sent() -> bool:
                    keys = [key.decode() for node in nodes for key in node.client.scan_iter("{*}:topic:*")]
                    return {key.rpartition(":")[2] for key in keys} == up

                await until(all_sent, "the messages of the other nodes are sent")
                if not is_killed:
                    cluster.processes[down].signal(signal.SIGCONT)
    assert Counter(change.group_id for change in recorder.inputs) == dict.fromkeys(healthy, 2)


async def test_delayed_messages_are_sent_once_while_their_slots_move(cluster: Cluster, namespace: str) -> None:
    recorder, topics = Recorder(), [f"topic{number}" for number in range(20)]
    async with StateManager(cluster.url, namespace=namespace) as state, working(state, record(recorder, *map(queue, topics))):
        sent = [await state.enqueue(topics[number % 20], number, delay=number / 100) for number in range(200)]
        late = [await state.enqueue(topic, "late", delay=1000) for topic in topics]
        for partition in range(0, 16, 1 if FULL else 4):
            slot = key_slot(f"{{{namespace}:{partition}}}".encode())
            await asyncio.to_thread(cluster.migrate, slot, (cluster.owner(slot) + 1) % 3, during=lambda: time.sleep(0.1))
        await recorder.wait(200)
        assert [await state.cancel(message) for message in late] == [True] * 20
        assert (await read_status(state)).delayed == 0
    handled = [context.trigger.message_id for context in recorder.contexts]
    assert sorted(handled, key=str) == sorted(sent)


# -- Sentinel -----------------------------------------------------------------------------------------------------------------


async def test_loss_of_a_primary_loses_no_replicated_change(tmp_path_factory: pytest.TempPathFactory) -> None:
    scopes, kills = 8, 2 if FULL else 1
    recorder = Recorder()
    with Sentinels(tmp_path_factory.mktemp("sentinel")) as sentinels:
        settings: Any = {"durability": "replicated", "deadline": 20.0}
        with pytest.raises(StateUnavailable, match="the sentinels know no service 'other'"):
            await StateManager(sentinels.url.replace("mymaster", "other")).connect()
        async with StateManager(sentinels.url, **settings) as state, working(state, record(recorder, state_trigger())):
            # A change without an acknowledgement of a replica raises NotDurable. It may be lost, so it is not counted.
            done: Counter[int] = Counter()
            stop = asyncio.Event()
            gaps = [0.0]

            async def count(number: int) -> None:
                while not stop.is_set():
                    began = time.monotonic()
                    try:
                        value = await state.update(f"scope{number}", "counter", INCREMENT)
                    except StateError:
                        continue
                    gaps.append(time.monotonic() - began)
                    assert value["n"] > done[number], "an acknowledged increment was lost"
                    done[number] = value["n"]

            tasks = [asyncio.create_task(count(number)) for number in range(scopes)]
            await recorder.wait(1)  # a worker that cannot reach Redis while it starts ends
            for _ in range(kills):
                before = done.total()
                await until_holds(lambda before=before: done.total() > before + 200, "the load is there", deadline=60)
                before = done.total()
                lost = sentinels.kill_primary()

                async def goes_on(before: int = before) -> bool:
                    return done.total() > before + 200

                await until(goes_on, "clients go on with the new primary", deadline=60)
                lost.start()
                await asyncio.to_thread(wait_until, sentinels.is_complete, "the old primary is back as a replica", deadline=60)
            stop.set()
            await asyncio.gather(*tasks)
            found = await counters(state, scopes)
            for number, acknowledged in done.items():
                assert found[number] >= acknowledged, "a replicated increment was lost"

            async def caught_up() -> bool:
                seen = {i.group_id: i.new_value["n"] for i in recorder.inputs}
                return all(seen.get(f"scope{number}") == value for number, value in found.items())

            await until(caught_up, "the worker has handled the last change of each scope", deadline=60)
    order: dict[str, list[int]] = {}
    for change in recorder.inputs:
        order.setdefault(change.group_id, []).append(change.new_value["n"])
    for number, count_ in found.items():
        firsts = dict.fromkeys(order[f"scope{number}"])
        assert set(firsts) >= set(range(1, count_ + 1)), "a stored change was not handled"
    print(f"{kills} primaries killed: {sum(found.values())} increments, none lost, the longest call {max(gaps):.1f} s")


async def test_delayed_messages_are_sent_once_through_the_loss_of_a_primary(tmp_path_factory: pytest.TempPathFactory) -> None:
    recorder = Recorder()
    with Sentinels(tmp_path_factory.mktemp("sentinel")) as sentinels:
        settings: Any = {"durability": "replicated", "deadline": 20.0}
        async with StateManager(sentinels.url, **settings) as state, working(state, record(recorder, queue("due"))):
            sent = [await state.enqueue("due", number, delay=0.5 + number / 20) for number in range(200)]  # over ten seconds
            late = await state.enqueue("due", "late", delay=1000)
            await recorder.wait(5)
            sentinels.kill_primary()

            async def all_handled() -> bool:
                return {context.trigger.message_id for context in recorder.contexts} == set(sent)

            await until(all_handled, "all messages are handled", deadline=40)
            assert await state.cancel(late)
            assert (await read_status(state)).delayed == 0
            names = await state.connect()
            router = await state.open_router()
            entries = [await router.execute(stream, "XRANGE", stream, "-", "+") for stream in names.topic_streams("due")]
            await router.aclose()
    messages = Counter(fields[b"request"].decode() for found in entries for _, fields in found)
    assert messages == Counter(sent), "each is in the stream once"
