"""Effects: the second attempt of a handler gets the outcomes of the first one, also of calls whose replies were lost."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis._store import effects
from motia_redis.errors import TransactionFailed
from tests.store.test_once import INCREMENT, Faults, events

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from motia_redis import StateManager

pytestmark = pytest.mark.usefixtures("each_way")


@pytest.fixture(autouse=True)
def no_attempt_is_left() -> Iterator[None]:
    yield
    effects.enter(None)


@pytest.fixture
async def faults(state: StateManager, monkeypatch: pytest.MonkeyPatch) -> Faults:
    await state.get("users", "ann")  # connected
    return Faults(monkeypatch)


def begin(state: StateManager, *, is_first: bool = False) -> effects.EventEffects:
    """Begin an attempt at the one event of these tests. `is_first`: it is certain that there was no other."""
    event = effects.EventEffects(b"event", place=(state.url, state.namespace), lifetime=60_000, is_first=is_first)
    effects.enter(effects.Effects(event))
    return event


async def make_calls(state: StateManager, number: int) -> list[Any]:
    return [
        await state.update("users", "ann", INCREMENT),
        await state.set("users", "bob", number),
        await state.delete("users", "bob"),
        await state.delete("users", "nobody"),
        await state.enqueue("mail", number),
        await state.enqueue("mail", number, delay=1000),
        await state.expire("users", "ann", 1000),
    ]


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("lost", [0, 1, 2])
async def test_calls_with_lost_replies_are_recorded_with_their_first_outcome(
    state: StateManager,
    faults: Faults,
    raw: redis.Redis,
    namespace: str,
    lost: int,
    is_first: bool,
) -> None:
    begin(state, is_first=is_first)
    made = []
    for call in (state.update("users", "ann", INCREMENT), state.set("users", "cid", 1), state.enqueue("mail", 1)):
        faults.lose = lost
        made.append(await call)
    begin(state)
    assert await state.update("users", "ann", INCREMENT) == made[0] == {"n": 1}
    assert await state.set("users", "cid", 2) == made[1] == 1
    assert await state.enqueue("mail", 2) == made[2]
    assert len(events(raw, namespace)) == 2


async def test_each_kind_of_call_is_made_once(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    begin(state, is_first=True)
    first = await make_calls(state, 1)
    count = len(events(raw, namespace))
    for number in (2, 3):
        begin(state)
        assert await make_calls(state, number) == first
    assert len(events(raw, namespace)) == count
    for key in raw.keys(f"{{{namespace}:*}}:effects:*"):
        assert 0 < raw.pttl(key) <= 60_000


async def test_late_first_attempt_changes_nothing(
    state: StateManager,
    faults: Faults,
    raw: redis.Redis,
    namespace: str,
) -> None:
    begin(state, is_first=True)
    faults.hold = 1
    assert await state.update("users", "ann", INCREMENT) == {"n": 1}
    assert (await faults.held[0]())[1].startswith(b'{"n":1}'), "the late attempt gets the result of the repetition"
    assert len(events(raw, namespace)) == 1


async def test_call_that_a_given_up_attempt_of_the_handler_has_sent_changes_nothing_when_it_comes_late(
    state: StateManager, faults: Faults, raw: redis.Redis, namespace: str
) -> None:
    begin(state, is_first=True)
    calls = (lambda: state.update("users", "ann", INCREMENT), lambda: state.enqueue("mail", 1))
    for send in calls:
        faults.hold = 1
        faults.lost.clear()
        call = asyncio.create_task(send())
        await faults.lost.wait()
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
    begin(state)
    for send in calls:
        await send()
    for late in faults.held:
        await late()
    assert await state.get("users", "ann") == {"n": 1}
    assert len(events(raw, namespace)) == 1
    (topic,) = raw.scan_iter(f"{{{namespace}:*}}:topic:*")
    assert raw.xlen(topic) == 1


async def test_modify_counts_as_one_call(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    await state.set("users", "ann", 0)
    calls = 0

    def add_one(value: int) -> int:
        nonlocal calls
        calls += 1
        return value + 1

    def fail(value: int) -> int:
        raise LookupError

    begin(state, is_first=True)
    with pytest.raises(LookupError):
        await state.modify("users", "ann", fail)
    assert await state.modify("users", "ann", add_one) == 1
    begin(state)
    assert await state.modify("users", "ann", add_one) == 2, "in the place of the call that failed"
    assert await state.modify("users", "ann", add_one) == 1
    assert calls == 2
    effects.enter(None)
    assert await state.get("users", "ann") == 2
    assert len(events(raw, namespace)) == 3


async def test_transaction_counts_as_one_call(state: StateManager, faults: Faults, raw: redis.Redis, namespace: str) -> None:
    async def run(number: int, key: str = "bob") -> Any:
        async with state.transaction() as tx:
            tx.update("users", "ann", INCREMENT)
            tx.set("users", key, number)
            tx.delete("users", "nobody")
            tx.enqueue("users", number)
        return tx

    begin(state, is_first=True)
    first = await run(1)
    for lost in (0, 1):
        begin(state)
        faults.lose = lost
        again = await run(2)
        assert (again.values, again.revisions, again.message_ids) == (first.values, first.revisions, first.message_ids)
    assert first.values == {("users", "ann"): {"n": 1}, ("users", "bob"): 1}
    assert (await run(2)).values["users", "ann"] == {"n": 2}, "the second transaction of its kind"
    assert (await run(3, "cid")).values["users", "ann"] == {"n": 3}, "of other keys: another call"
    effects.enter(None)
    assert await state.items("users") == {"ann": {"n": 3}, "bob": 2, "cid": 3}
    assert len(events(raw, namespace)) == 6


async def test_failed_transaction_is_no_effect(state: StateManager) -> None:
    async def run(revision: str | None) -> None:
        async with state.transaction() as tx:
            tx.check("users", "ann", revision)
            tx.update("users", "bob", INCREMENT)

    begin(state, is_first=True)
    with pytest.raises(TransactionFailed):
        await run("1-1")
    begin(state)
    await run(None)
    assert await state.get("users", "bob") == {"n": 1}
