"""Transactions: several checks, changes and messages as one step, over scopes and topics of one tag."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import KEEP, Layout, Limits, StateManager
from motia_redis._steps.events import decode_change
from motia_redis.errors import (
    DifferentTags,
    IdempotencyKeyReused,
    InvalidName,
    InvalidValue,
    KeyMissing,
    NotDurable,
    PathMissing,
    RevisionConflict,
    StateError,
    StateUnavailable,
    TestFailed,
    TooMuchWork,
    TransactionFailed,
    TransactionMisused,
    TransactionTooLarge,
)
from tests.store.test_once import Faults
from tests.support.clocks import set_namespace_clock
from tests.support.gates import Gate
from tests.support.waiting import until, until_holds

if TYPE_CHECKING:
    import redis

    from motia_redis import StateTriggerInput
    from motia_redis.types import Transaction
    from tests.support.servers import RedisServer

pytestmark = pytest.mark.usefixtures("each_way")

CARTS, STOCK, ORDERS = "{acme}/carts", "{acme}/stock", "{acme}/orders"
INCREMENT = [{"op": "increment", "path": "/n", "value": 1}]


async def events(state: StateManager, raw: redis.Redis, scope: str = CARTS, key: str | None = None) -> list[StateTriggerInput]:
    """Return the events of a scope, or of a key, in the order of their ids."""
    names = await state.connect()
    found: list[Any] = [entry for stream in names.event_streams(scope) for entry in raw.xrange(stream)]
    found = sorted(found, key=lambda entry: tuple(map(int, entry[0].split(b"-"))))
    decoded = [decode_change(entry_id.decode(), fields) for entry_id, fields in found if fields[b"type"] != b"state:ttl"]
    return [event for event in decoded if event.group_id == scope and key in (None, event.item_id)]


async def apply(state: StateManager, *calls: tuple[Any, ...]) -> Transaction:
    """Run one transaction of these calls, each a method and its arguments, and return it."""
    async with state.transaction() as tx:
        for method, *arguments in calls:
            getattr(tx, method)(*arguments)
    return tx


@pytest.fixture
async def faults(state: StateManager, monkeypatch: pytest.MonkeyPatch) -> Faults:
    await state.get(CARTS, "ann")  # connected
    return Faults(monkeypatch)


def dump(raw: redis.Redis, namespace: str) -> dict[bytes, Any]:
    """Return everything that a namespace has, but for records of requests."""
    found: Any = {}
    for name in sorted(raw.scan_iter(f"*{namespace}:*")):
        if b"}:request:" not in name:
            found[name] = raw.xrange(name) if raw.type(name) == b"stream" else raw.dump(name)
    return found


# -- what a transaction does ---------------------------------------------------------------------------------------------------


async def test_changes_and_messages_are_one_step(state: StateManager, raw: redis.Redis) -> None:
    await state.set(STOCK, "apple", {"n": 5})
    await state.set(CARTS, "old", 1)
    async with state.transaction() as tx:
        tx.check(CARTS, "ann", None)
        tx.set(CARTS, "ann", ["apple"])
        tx.update(STOCK, "apple", [{"op": "decrement", "path": "/n", "value": 1}])
        tx.delete(CARTS, "old")
        tx.delete(CARTS, "nobody")
        tx.enqueue(ORDERS, {"who": "ann"}, key="ann")
        tx.enqueue(ORDERS, {"who": "bob"})
        assert await state.get(CARTS, "ann") is None, "nothing is sent before the block ends"
    assert await state.items(CARTS) == {"ann": ["apple"]}
    assert await state.get(STOCK, "apple") == {"n": 4}
    assert tx.values == {(CARTS, "ann"): ["apple"], (STOCK, "apple"): {"n": 4}}
    assert len(tx.message_ids) == len(set(tx.message_ids)) == 2
    assert tx.revisions.pop((CARTS, "nobody")) is None
    for (scope, key), revision in tx.revisions.items():
        last = (await events(state, raw, scope, key))[-1]
        assert last.revision == revision
        entry = await state.entry(scope, key)
        assert entry is None or entry.revision == revision
    changes = [(await events(state, raw, scope, key))[-1] for scope, key in ((CARTS, "ann"), (STOCK, "apple"), (CARTS, "old"))]
    infos = [change.transaction for change in changes]
    assert all(info and info.size == 5 for info in infos)
    assert [info.index for info in infos if info] == [0, 1, 2]
    assert len({info.id for info in infos if info}) == 1
    assert [change.event_type for change in changes] == ["state:created", "state:updated", "state:deleted"]
    streams = (await state.connect()).topic_streams(ORDERS)
    messages: Any = [fields for stream in streams for _, fields in raw.xrange(stream)]
    assert sorted(fields[b"request"].decode() for fields in messages) == sorted(tx.message_ids)
    assert {fields[b"transaction"].split(b":")[2] for fields in messages} == {b"3", b"4"}
    assert (await state.set(CARTS, "ann", 1), (await events(state, raw, CARTS, "ann"))[-1].transaction) == (1, None)


async def test_several_changes_of_a_key_are_one_change(state: StateManager, raw: redis.Redis) -> None:
    await state.set(CARTS, "ann", {"n": 1, "x": []})
    async with state.transaction() as tx:
        tx.update(CARTS, "ann", INCREMENT)
        tx.update(CARTS, "ann", INCREMENT)
        tx.set(CARTS, "new", {"n": 1})
        tx.update(CARTS, "new", INCREMENT)
        tx.set(CARTS, "gone", 1)
        tx.delete(CARTS, "gone")
    assert tx.values == {(CARTS, "ann"): {"n": 3, "x": []}, (CARTS, "new"): {"n": 2}}
    assert tx.revisions[CARTS, "gone"] is None
    _, update = await events(state, raw, CARTS, "ann")
    assert (update.event_type, update.old_value, update.new_value) == ("state:updated", {"n": 1, "x": []}, {"n": 3, "x": []})
    (created,) = await events(state, raw, CARTS, "new")
    assert (created.event_type, created.old_value, created.new_value) == ("state:created", None, {"n": 2})
    assert await events(state, raw, CARTS, "gone") == []
    async with state.transaction() as tx:
        tx.delete(CARTS, "ann")
        tx.update(CARTS, "ann", INCREMENT)  # a value that was deleted begins as {}
        tx.update(CARTS, "new", INCREMENT)
        tx.delete(CARTS, "new")
    changes = (await events(state, raw, CARTS, "ann"))[2:] + (await events(state, raw, CARTS, "new"))[1:]
    assert [(change.event_type, change.old_value, change.new_value) for change in changes] == [
        ("state:updated", {"n": 3, "x": []}, {"n": 1}),
        ("state:deleted", {"n": 2}, None),
    ]
    assert tx.values == {(CARTS, "ann"): {"n": 1}}
    async with state.transaction() as tx:
        tx.delete(CARTS, "ann")
        tx.set(STOCK, "apple", 1)
    assert await state.list_groups() == [STOCK]
    async with state.transaction() as tx:
        tx.delete(STOCK, "apple")
        tx.set(STOCK, "pear", 1)
    assert await state.list_groups() == [STOCK]


async def test_update_that_touches_nothing_keeps_the_revision(state: StateManager, raw: redis.Redis) -> None:
    await state.set(CARTS, "ann", {"n": 1})
    before = await state.entry(CARTS, "ann")
    async with state.transaction() as tx:
        tx.update(CARTS, "ann", [{"op": "test", "path": "/n", "value": 1}])
        tx.set(CARTS, "bob", 1)
    assert before
    assert tx.revisions[CARTS, "ann"] == before.revision
    assert tx.values[CARTS, "ann"] == {"n": 1}
    assert len(await events(state, raw)) == 2


async def test_names_and_values_of_every_kind_go_through(state: StateManager) -> None:
    scope = "{a:}\n:{x}} \u2028"
    values: dict[str, Any] = {"a\nb": "x\ny", "0:1": [], "\u00e9\U0001f469": {"": None}, "5:6:7": "\u0000", " ": 1.5}
    async with state.transaction() as tx:
        for key, value in values.items():
            tx.set(scope, key, value)
            tx.update(scope, key, [{"op": "replace", "path": "", "value": [value]}])
    assert await state.items(scope) == {key: [value] for key, value in values.items()}
    assert tx.values == {(scope, key): [value] for key, value in values.items()}


# -- failures leave everything untouched ---------------------------------------------------------------------------------------


async def test_failing_change_leaves_everything_untouched_and_is_named(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    await state.set(CARTS, "ann", {"n": 1})
    await state.set(STOCK, "apple", {"n": "five"})
    before = dump(raw, namespace)
    entry = await state.entry(CARTS, "ann")
    assert entry

    async def fails(cause: type[StateError], operation: str, key: str, index: int, *calls: tuple[Any, ...]) -> None:
        with pytest.raises(TransactionFailed, match=f"{operation} .*{key}.*nothing was changed") as caught:
            await apply(state, ("set", CARTS, "ann", 2), ("set", STOCK, "new", 2), ("enqueue", ORDERS, 1), *calls)
        error = caught.value
        assert (error.operation, error.key, error.index) == (operation, key, index)
        assert isinstance(error.__cause__, cause)
        assert dump(raw, namespace) == before

    pear = [{"op": "remove", "path": "/x"}]
    await fails(RevisionConflict, "check", "ann", 3, ("check", CARTS, "ann", None))
    await fails(RevisionConflict, "check", "ann", 3, ("check", CARTS, "ann", "1-1"))
    await fails(
        RevisionConflict, "check", "nobody", 4, ("check", CARTS, "ann", entry.revision), ("check", CARTS, "nobody", "1-1")
    )
    await fails(KeyMissing, "update", "pear", 3, ("update", STOCK, "pear", pear, True))
    await fails(KeyMissing, "update", "apple", 4, ("delete", STOCK, "apple"), ("update", STOCK, "apple", pear, True))
    await fails(PathMissing, "update", "apple", 3, ("update", STOCK, "apple", pear, True))
    await fails(StateError, "update", "apple", 3, ("update", STOCK, "apple", INCREMENT))
    await fails(TestFailed, "update", "ann", 3, ("update", CARTS, "ann", [{"op": "test", "path": "", "value": 3}]))


async def test_check_sees_what_was_there_before(state: StateManager) -> None:
    await state.set(CARTS, "ann", 1)
    entry = await state.entry(CARTS, "ann")
    assert entry
    async with state.transaction() as tx:
        tx.set(CARTS, "ann", 2)
        tx.check(CARTS, "ann", entry.revision)
        tx.check(CARTS, "bob", None)
        tx.set(CARTS, "bob", 1)
        tx.check(CARTS, "bob", None)
    with pytest.raises(TransactionFailed) as caught:
        await apply(state, ("check", CARTS, "ann", entry.revision))
    assert isinstance(caught.value.__cause__, RevisionConflict)
    now = await state.entry(CARTS, "ann")
    assert now
    assert (caught.value.__cause__.expected, caught.value.__cause__.actual) == (entry.revision, now.revision)


async def change_all_kinds(state: StateManager) -> None:
    async with state.transaction() as tx:
        tx.set(CARTS, "ann", 1, ttl=60)
        tx.set(STOCK, "apple", 1)
        tx.enqueue(ORDERS, 1)


@pytest.mark.parametrize("place", ["revisions", "values", "scopes", "topics", "due", "events", "topic"])
async def test_foreign_type_under_one_of_the_keys_leaves_everything_untouched(
    state: StateManager, raw: redis.Redis, namespace: str, place: str
) -> None:
    names = await state.connect()
    partition = names.partition(CARTS.encode())
    keys = names.state_keys(STOCK.encode(), b"apple")
    streams = names.topic_streams(ORDERS)
    foreign = {
        "revisions": [keys.revisions],
        "values": [keys.values],
        "scopes": [keys.scopes],
        "topics": [names.topics(partition)],
        "due": [names.due(partition)],
        "events": [keys.events],
        "topic": streams,
    }[place]
    for name in foreign:
        raw.set(name, "foreign")
    assert names.lane(b"ann") != names.lane(b"apple")
    before = dump(raw, namespace)
    with pytest.raises(StateError, match="WRONGTYPE"):
        await change_all_kinds(state)
    after = {name: value for name, value in dump(raw, namespace).items() if value}  # an event that was undone leaves its stream
    assert after == before
    for name in foreign:
        raw.delete(name)


async def test_exception_in_the_block_sends_nothing(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    await state.set(CARTS, "ann", 1)
    before = dump(raw, namespace)
    tx = state.transaction()

    async def interrupted() -> None:
        async with tx:
            tx.set(CARTS, "ann", 2)
            raise LookupError

    with pytest.raises(LookupError):
        await interrupted()
    with pytest.raises(InvalidValue):
        await apply(state, ("set", CARTS, "ann", 2), ("set", CARTS, "bob", object()))
    assert dump(raw, namespace) == before
    with pytest.raises(TransactionMisused, match="no results"):
        _ = tx.values


# -- use -----------------------------------------------------------------------------------------------------------------------


async def test_misuse_is_an_error_with_a_name(state: StateManager) -> None:
    unused = state.transaction()
    with pytest.raises(TransactionMisused, match="set outside of its block"):
        unused.set(CARTS, "ann", 1)
    async with state.transaction() as tx:
        tx.set(CARTS, "ann", 1)
        with pytest.raises(TransactionMisused, match="no results"):
            _ = tx.message_ids
        with pytest.raises(TransactionMisused, match="do not nest"):
            async with state.transaction() as inner:
                inner.set(CARTS, "bob", 1)

        async def another_task() -> None:
            async with state.transaction() as other:
                other.set(CARTS, "carl", 1)

        await asyncio.create_task(another_task())  # not nested: it runs on its own
    with pytest.raises(TransactionMisused, match="delete outside of its block"):
        tx.delete(CARTS, "ann")
    with pytest.raises(TransactionMisused, match="used before"):
        async with tx:
            pass
    async with state.transaction() as empty:
        pass
    assert (empty.revisions, empty.values, empty.message_ids) == ({}, {}, [])
    assert sorted(await state.keys(CARTS)) == ["ann", "carl"]


async def test_bad_arguments_are_refused_at_the_call(state: StateManager) -> None:
    async with state.transaction() as tx:
        for method in (tx.check, tx.set):
            with pytest.raises(InvalidName):
                method("", "ann", "1-1")
        with pytest.raises(InvalidName):
            tx.enqueue(ORDERS, 1, key="")
        with pytest.raises(StateError, match="revision must be a revision like"):
            tx.check(CARTS, "ann", "new")


async def test_several_tags_are_refused_also_in_one_partition(server: RedisServer) -> None:
    async with StateManager(server.url, namespace="one-partition", layout=Layout(1, 1)) as state, state.transaction() as tx:
        tx.set("carts", "ann", 1)
        tx.set("carts", "bob", 1)
        for scope in ("stock", "{carts", "{acme}carts"):
            with pytest.raises(
                DifferentTags, match=r"'carts' and .* have different tags.*one tag, in braces, such as '\{acme\}/carts'"
            ):
                tx.set(scope, "ann", 1)
        with pytest.raises(DifferentTags):
            tx.enqueue("orders", 1)
        with pytest.raises(DifferentTags):
            tx.check("stock", "ann", None)
        tx.enqueue("a{carts}", 1)
        tx.set("{carts}", "ann", 1)


async def test_limits(server: RedisServer, state: StateManager, raw: redis.Redis, namespace: str) -> None:
    async with state.transaction() as tx:
        for number in range(100):
            tx.set(CARTS, f"{number}", number)
        with pytest.raises(TransactionTooLarge, match="more than 100 checks, changes and messages"):
            tx.check(CARTS, "ann", None)
    assert await state.count(CARTS) == 100
    large = "x" * 3_000_000
    await state.set(STOCK, "apple", large)
    async with state.transaction() as tx:
        tx.set(STOCK, "pear", large)
        with pytest.raises(TransactionTooLarge, match="bytes of values, the limit"):
            tx.set(STOCK, "plum", large)
    before = dump(raw, namespace)
    with pytest.raises(TransactionTooLarge, match="old and new values, or more, over the limit `transaction_bytes`"):
        await apply(state, ("set", CARTS, "new", 1), ("delete", STOCK, "apple"), ("delete", STOCK, "pear"))
    assert dump(raw, namespace) == before
    async with state.transaction() as tx:
        tx.set(STOCK, "apple", large + "y")  # one change alone may be as large as a call of its own
    async with (
        StateManager(server.url, namespace=namespace, limits=Limits(transaction_changes=1)) as small,
        small.transaction() as tx,
    ):
        tx.set(CARTS, "new", 1)
        with pytest.raises(TransactionTooLarge, match="more than 1 checks"):
            tx.set(CARTS, "new", 1)


async def test_updates_together_may_cost_what_one_may(state: StateManager) -> None:
    await state.set(CARTS, "ann", {"list": list(range(100_000))})
    costly = [{"op": "add", "path": "/list/0", "value": 1} for _ in range(10)]
    async with state.transaction() as tx:
        tx.update(CARTS, "ann", costly)
    for key in "1234":
        await state.set(CARTS, key, {"list": list(range(100_000))})
    with pytest.raises(TransactionFailed) as caught:
        await apply(state, *[("update", CARTS, key, costly) for key in "1234"])
    assert isinstance(caught.value.__cause__, TooMuchWork)
    assert caught.value.index > 0


# -- time to live --------------------------------------------------------------------------------------------------------------


async def test_time_to_live_in_a_transaction(state: StateManager, raw: redis.Redis) -> None:
    names = await state.connect()
    due = names.due(names.partition(CARTS.encode()))
    await state.set(CARTS, "keep", {"n": 1}, ttl=100)
    await state.set(CARTS, "never", {"n": 1}, ttl=100)
    await state.set(CARTS, "delete", {"n": 1}, ttl=100)
    async with state.transaction() as tx:
        tx.set(CARTS, "new", {"n": 1}, ttl=50)
        tx.update(CARTS, "new", INCREMENT)
        tx.update(CARTS, "keep", INCREMENT)
        tx.set(CARTS, "keep", {"n": 9}, ttl=KEEP)
        tx.set(CARTS, "never", {"n": 2})
        tx.delete(CARTS, "delete")
        tx.set(CARTS, "gone", 1, ttl=5)
        tx.delete(CARTS, "gone")
    entries = {key: await state.entry(CARTS, key) for key in ("new", "keep", "never")}
    times = {key: entry.expires_at for key, entry in entries.items() if entry}
    assert times["never"] is None
    assert times["new"] is not None
    assert times["keep"] is not None
    assert 45 < times["keep"] - times["new"] < 51
    found: Any = raw.zrange(due, 0, -1, withscores=True)
    assert sorted(score / 1000 for _, score in found) == sorted([times["new"], times["keep"]])


async def test_transaction_does_not_build_on_an_expired_value(state: StateManager, raw: redis.Redis) -> None:
    for key in ("set", "update", "delete", "check", "again"):
        await state.set(CARTS, key, {"n": 1}, ttl=100)
    await set_namespace_clock(state, 200)
    async with state.transaction() as tx:
        tx.check(CARTS, "check", None)
        tx.set(CARTS, "set", {"n": 5})
        tx.update(CARTS, "update", INCREMENT)
        tx.delete(CARTS, "delete")
        tx.set(CARTS, "again", 1, ttl=1000)
    assert tx.values[CARTS, "update"] == {"n": 1}
    assert tx.revisions[CARTS, "delete"] is None
    for key in ("set", "update", "again"):
        _, expired, created = await events(state, raw, CARTS, key)
        assert (expired.reason, expired.old_value, expired.transaction) == ("expired", {"n": 1}, None)
        assert (created.event_type, created.old_value) == ("state:created", None)
        assert created.revision == tx.revisions[CARTS, key]
    assert [event.reason for event in await events(state, raw, CARTS, "delete")] == [None, "expired"]
    assert len(await events(state, raw, CARTS, "check")) == 1
    names = await state.connect()
    assert raw.zcard(names.due(names.partition(CARTS.encode()))) == 2, "of check, which still waits, and again"


# -- applied once --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [1, 2, 3])
async def test_transaction_with_lost_replies_is_applied_once(
    state: StateManager,
    faults: Faults,
    raw: redis.Redis,
    lost: int,
) -> None:
    for count in (1, 2):
        faults.lose = lost
        async with state.transaction() as tx:
            tx.update(CARTS, "ann", INCREMENT)
            tx.update(STOCK, "apple", [{"op": "test", "path": "", "value": {}}])
            tx.enqueue(ORDERS, count)
            tx.check(CARTS, "nobody", None)
        assert tx.values[CARTS, "ann"] == {"n": count}
        assert len(tx.message_ids) == 1
    assert len(await events(state, raw, CARTS)) == 2
    assert sum(raw.xlen(stream) for stream in (await state.connect()).topic_streams(ORDERS)) == 2


async def test_no_op_and_check_are_repeated_with_the_first_result(
    server: RedisServer,
    state: StateManager,
    faults: Faults,
    namespace: str,
) -> None:
    async with StateManager(server.url, namespace=namespace) as other:
        faults.lose = 1

        async def run() -> Any:
            async with state.transaction() as tx:
                tx.check(CARTS, "ann", None)
                tx.delete(CARTS, "ann")
            return tx

        slow = asyncio.create_task(run())
        await faults.lost.wait()
        await other.set(CARTS, "ann", 1)
        assert (await slow).revisions == {(CARTS, "ann"): None}
        assert await other.get(CARTS, "ann") == 1


async def test_first_attempt_that_arrives_late_changes_nothing(state: StateManager, faults: Faults) -> None:
    faults.hold = 1
    async with state.transaction() as tx:
        tx.update(CARTS, "ann", INCREMENT)
    assert tx.values == {(CARTS, "ann"): {"n": 1}}
    await asyncio.gather(*(send() for send in faults.held), return_exceptions=True)
    assert await state.get(CARTS, "ann") == {"n": 1}


async def test_record_of_a_repetition_outlives_that_of_a_first_attempt(
    state: StateManager,
    faults: Faults,
    raw: redis.Redis,
    namespace: str,
) -> None:
    async with state.transaction() as tx:
        tx.set(CARTS, "ann", 1)
    (record,) = raw.scan_iter(f"*{namespace}:*request:*")
    assert 15_000 < raw.pttl(record) <= 20_000, "the deadline and ten seconds"
    raw.delete(record)
    faults.lose = 1
    async with state.transaction() as tx:
        tx.set(CARTS, "ann", 1)
    (record,) = raw.scan_iter(f"*{namespace}:*request:*")
    assert raw.pttl(record) > 500_000, "the repetition itself may be late, too"


async def test_idempotency_key_of_a_transaction(state: StateManager, raw: redis.Redis) -> None:
    async def run(amount: int, key: str = "k") -> Any:
        async with state.transaction(idempotency_key=key) as tx:
            tx.update(CARTS, "ann", [{"op": "increment", "path": "/n", "value": amount}])
            tx.enqueue(ORDERS, amount)
        return tx

    first, second = await run(1), await run(1)
    assert (first.revisions, first.values, first.message_ids) == (second.revisions, second.values, second.message_ids)
    assert await state.get(CARTS, "ann") == {"n": 1}
    with pytest.raises(IdempotencyKeyReused, match="transaction"):
        await run(2)
    await run(2, "other")
    assert len(await events(state, raw)) == 2


async def test_transaction_is_as_durable_as_required(server: RedisServer, namespace: str) -> None:
    options: Any = {"durability": "replicated", "durability_timeout": 0.05}
    async with StateManager(server.url, namespace=namespace, **options) as state:
        with pytest.raises(NotDurable, match="transaction: the change stands"):
            async with state.transaction() as tx:
                tx.set(CARTS, "ann", 1)
        assert await state.get(CARTS, "ann") == 1


async def test_unreachable_server_is_an_error(state: StateManager, faults: Faults) -> None:
    faults.lose = 10_000
    async with StateManager(state.url, namespace=state.namespace, deadline=0.2) as hasty:
        await hasty.get(CARTS, "ann")
        with pytest.raises(StateUnavailable) as caught:
            async with hasty.transaction() as tx:
                tx.set(CARTS, "ann", 1)
    assert caught.value.maybe_applied


# -- together ------------------------------------------------------------------------------------------------------------------


async def test_transfers_at_once_keep_the_sum(state: StateManager, monkeypatch: pytest.MonkeyPatch) -> None:
    accounts = [(scope, f"{number}") for scope in (CARTS, STOCK) for number in range(5)]
    for scope, key in accounts:
        await state.set(scope, key, {"n": 100})
    gate, transfers, are_enough = Gate(monkeypatch), 0, False

    async def transfer(number: int) -> None:
        nonlocal transfers
        source, target = accounts[number % 10], accounts[(number * 7 + 3) % 10]
        while not are_enough:
            async with state.transaction() as tx:
                tx.update(*source, [{"op": "decrement", "path": "/n", "value": 1}])
                tx.update(*target, [{"op": "increment", "path": "/n", "value": 1}])
            transfers += 1

    async def make_more() -> None:
        enough = transfers + 64
        await until_holds(lambda: transfers >= enough, "64 more transfers")

    async def audit() -> bool:
        """Read all accounts, and return whether a transaction of checks alone confirms that they were there at one moment."""
        entries = {place: await state.entry(*place) for place in accounts}
        try:
            async with state.transaction() as tx:
                for place, entry in entries.items():
                    tx.check(*place, entry.revision if entry else None)
        except TransactionFailed:
            return False
        assert sum(entry.value["n"] for entry in entries.values() if entry) == 1000
        return True

    async with asyncio.TaskGroup() as group:
        for number in range(64):
            group.create_task(transfer(number))
        for _ in range(10):
            await make_more()
            async with gate.closed():  # transfers wait to be sent: when those that were sent before have ended, the sum stays
                await until(audit, "an audit is confirmed")
                assert gate.waiting
        are_enough = True
    assert await audit()


# -- set_many, delete_many -----------------------------------------------------------------------------------------------------


async def test_set_many_and_delete_many_are_one_transaction(state: StateManager, raw: redis.Redis) -> None:
    await state.set_many("users", {"ann": 1, "bob": {"n": 2}}, ttl=60)
    assert await state.items("users") == {"ann": 1, "bob": {"n": 2}}
    infos = [event.transaction for event in await events(state, raw, "users")]
    assert len({info.id for info in infos if info}) == 1
    assert len(infos) == 2
    entry = await state.entry("users", "ann")
    assert entry
    assert entry.expires_at
    assert await state.delete_many("users", ["ann", "nobody", "ann"]) == 1
    assert await state.items("users") == {"bob": {"n": 2}}
    await state.set_many("users", {})
    assert await state.delete_many("users", []) == 0
    with pytest.raises(InvalidName, match="several keys, not one text"):
        await state.delete_many("users", "bob")
    with pytest.raises(InvalidValue):
        await state.set_many("users", {"ann": 1, "x": {1, 2}})
    with pytest.raises(InvalidValue, match="takes a dict of keys and values, not list"):
        await state.set_many("users", [("ann", 1)])  # type: ignore[arg-type]
    assert await state.keys("users") == ["bob"]


async def test_many_changes_beyond_the_limits_go_in_steps_if_asked(state: StateManager) -> None:
    values = {f"{number}": number for number in range(250)}
    with pytest.raises(TransactionTooLarge):
        await state.set_many("users", values)
    assert await state.count("users") == 0
    await state.set_many("users", values, atomic=False)
    assert await state.items("users") == values
    with pytest.raises(TransactionTooLarge):
        await state.delete_many("users", values)
    assert await state.delete_many("users", values, atomic=False) == 250
    large = {f"{number}": "x" * 1_500_000 for number in range(5)}
    await state.set_many("users", large, atomic=False)
    await state.set_many("users", large, atomic=False)  # with the old values more than one transaction may have
    await state.set_many("users", {"huge": "x" * 4_000_000}, atomic=False)
    await state.set_many("users", {"huge": "y" * 4_000_000}, atomic=False)
    assert await state.delete_many("users", [*large, "huge"], atomic=False) == 6
