"""Test listing, retrying and dropping dead letters, and the `dead` commands."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import StateManager, StateTriggerInput, queue
from motia_redis import state as state_trigger
from motia_redis._admin.dead_letters import DeadLetters
from motia_redis._admin.registry import forget_step
from motia_redis.errors import DeadLetterMissing, StateUnavailable, StepMissing
from tests.support.dead_letters import FailingHandler, failing_step, wait_for_dead_letters, wait_until_drained
from tests.support.waiting import until
from tests.support.workers import Recorder, pending, record, working

if TYPE_CHECKING:
    import redis


async def test_dead_letter_describes_its_event_error_and_attempts(state: StateManager) -> None:
    failing = FailingHandler()
    letters = DeadLetters(state)
    await state.set("users", "ann", {"n": 1})
    async with working(state, failing_step(failing, "Sick", state_trigger(), queue("mail"))):
        await state.set("users", "ann", {"n": 2})
        entry = await state.entry("users", "ann")
        assert entry is not None
        await state.enqueue("mail", {"to": "ann"}, key="k")
        change, message = sorted(await wait_for_dead_letters(letters, 2), key=lambda letter: letter.event_type or "")
    assert (change.step, change.scope, change.key, change.topic) == ("Sick", "users", "ann", None)
    assert (change.event_type, change.revision, change.entry_id) == ("state:updated", entry.revision, entry.revision)
    assert (change.error_type, change.error_text, change.attempts) == ("ValueError", "cannot\ndigest \\x1b[31mthis", 2)
    assert (change.old_value, change.new_value) == ({"n": 1}, {"n": 2})
    assert abs(change.time.timestamp() - int(entry.revision.split("-")[0]) / 1000) < 60
    assert (message.event_type, message.scope, message.topic, message.key, message.data) == (
        "topic",
        None,
        "mail",
        "k",
        {"to": "ann"},
    )
    assert await letters.get("Sick", change.id) == change
    with pytest.raises(DeadLetterMissing):
        _ = message.new_value
    with pytest.raises(DeadLetterMissing):
        _ = change.data


async def test_list_orders_letters_of_all_partitions_by_time_with_unique_ids(state: StateManager) -> None:
    letters = DeadLetters(state)
    assert await letters.list() == []
    async with working(
        state,
        failing_step(FailingHandler(), "One", state_trigger()),
        failing_step(FailingHandler(), "Two", state_trigger(scope="scope3")),
    ):
        for number in range(60):
            await state.set(f"scope{number % 30}", f"key{number}", number)
        found = await wait_for_dead_letters(letters, 62)
    assert [letter.time for letter in found] == sorted(letter.time for letter in found)
    one = await letters.list("One")
    assert sorted(letter.new_value for letter in one) == list(range(60))
    assert len({letter.id for letter in one}) == 60
    assert len({letter.id.split("/")[0] for letter in one}) > 5, "many partitions took part"
    assert [letter.id for letter in await letters.list(limit=7)] == [letter.id for letter in found[:7]]
    assert await letters.count("Two") == 2
    assert await letters.list("Three") == []


async def test_retried_letter_runs_once_in_its_step_only_with_its_original_revision(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    failing, other = FailingHandler(), Recorder()
    letters = DeadLetters(state)
    steps = [failing_step(failing, "Sick", state_trigger()), record(other, state_trigger())]
    async with working(state, *steps, workers=2):
        await state.set("users", "ann", 1)
        entry = await state.entry("users", "ann")
        (letter,) = await wait_for_dead_letters(letters, 1)
        failing.fixed = True
        await state.set("users", "ann", 2)
        await failing.received.wait(1)
        await letters.retry("Sick", letter.id)
        await failing.received.wait(2)
        await wait_until_drained(raw, namespace, "Sick", "Record")
    assert entry is not None
    assert [i.new_value for i in failing.received.inputs] == [2, 1], "behind the newer event of its key, as retry says"
    assert [i.new_value for i in other.inputs] == [1, 2], "the other step does not see it again"
    again, ctx = failing.received.inputs[1], failing.received.contexts[1]
    assert again.revision == ctx.trigger.revision == entry.revision
    assert again.timestamp == int(entry.revision.split("-")[0])
    assert ctx.trigger.attempt == 1
    assert await letters.count() == 0
    assert not raw.keys(f"{{{namespace}:*:dead:*"), "an empty stream leaves no key"
    assert await pending(raw, namespace) == 0
    with pytest.raises(DeadLetterMissing):
        await letters.retry("Sick", letter.id)


async def test_retried_event_does_not_run_while_a_newer_event_of_its_key_runs(state: StateManager) -> None:
    first, running, seen = True, set(), []
    gate = asyncio.Event()

    async def handler(input: StateTriggerInput) -> None:
        if first:
            raise ValueError
        assert input.item_id not in running, "two events of one key at once"
        running.add(input.item_id)
        if input.new_value == 2:
            await gate.wait()
        seen.append(input.new_value)
        running.discard(input.item_id)

    letters = DeadLetters(state)
    async with working(state, failing_step(handler, "Step", state_trigger())):
        await state.set("users", "ann", 1)
        (letter,) = await wait_for_dead_letters(letters, 1)
        first = False
        await state.set("users", "ann", 2)
        await letters.retry("Step", letter.id)
        await state.set("users", "bob", 3)

        async def bob() -> bool:
            return 3 in seen

        await until(bob, "others go on")
        assert seen == [3]
        gate.set()

        async def all_seen() -> bool:
            return len(seen) == 3

        await until(all_seen, "ann's two")
    assert seen == [3, 2, 1]


async def test_retry_that_fails_again_leaves_one_letter_with_the_original_revision(state: StateManager) -> None:
    failing = FailingHandler()
    letters = DeadLetters(state)
    async with working(state, failing_step(failing, "Sick", state_trigger())):
        await state.set("users", "ann", {"deep": [1, {}]})
        (first,) = await wait_for_dead_letters(letters, 1)
        for _ in range(2):
            (letter,) = await letters.list()
            await letters.retry("Sick", letter.id)

            async def back(before: str = letter.id) -> bool:
                return [found.id for found in await letters.list() if found.id != before] != []

            await until(back, "the letter is back")
        (last,) = await letters.list()
        assert last.id != first.id
        assert (last.revision, last.new_value, last.old_value) == (first.revision, {"deep": [1, {}]}, None)
        failing.fixed = True
        await letters.retry("Sick", last.id)
        await failing.received.wait(1)
    assert failing.received.inputs[0].revision == first.revision
    assert await letters.count() == 0


async def test_request_of_a_change_is_in_one_event_after_its_letter_was_retried(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    """A repeated call looks for the event of its request: with two it would return the revision of the retry."""
    failing = FailingHandler()
    letters = DeadLetters(state)
    async with working(state, failing_step(failing, "Sick", state_trigger())):
        await state.set("users", "ann", 1)
        (letter,) = await wait_for_dead_letters(letters, 1)
        failing.fixed = True
        await letters.retry("Sick", letter.id)
        await failing.received.wait(1)
    events: list[Any] = [fields for key in raw.scan_iter(f"{{{namespace}:*}}:events:*") for _, fields in raw.xrange(key)]
    assert len(events) == 2
    assert [b"request" in fields for fields in events] == [True, False]


async def test_retried_message_keeps_its_id(state: StateManager) -> None:
    failing = FailingHandler()
    letters = DeadLetters(state)
    async with working(state, failing_step(failing, "Sick", queue("mail"))):
        message = await state.enqueue("mail", {"to": "ann"})
        (letter,) = await wait_for_dead_letters(letters, 1)
        failing.fixed = True
        await letters.retry("Sick", letter.id)
        await failing.received.wait(1)
    assert failing.received.inputs == [{"to": "ann"}]
    assert failing.received.contexts[0].trigger.message_id == message


async def test_concurrent_retries_of_one_letter_run_its_event_once(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    failing = FailingHandler()
    letters = DeadLetters(state)
    async with working(state, failing_step(failing, "Sick", state_trigger())):
        await state.set("users", "ann", 1)
        (letter,) = await wait_for_dead_letters(letters, 1)
        failing.fixed = True
        results = await asyncio.gather(*(letters.retry("Sick", letter.id) for _ in range(8)), return_exceptions=True)
        await failing.received.wait(1)
        await wait_until_drained(raw, namespace, "Sick")
    assert sum(isinstance(result, DeadLetterMissing) for result in results) == 7
    assert len(failing.received.inputs) == 1


async def test_retry_all_ends_when_all_letters_fail_again(state: StateManager) -> None:
    failing = FailingHandler()
    letters = DeadLetters(state)
    async with working(state, failing_step(failing, "Sick", state_trigger())):
        for number in range(50):
            await state.set("users", f"key{number}", number)
        await wait_for_dead_letters(letters, 50)
        retried, left = await letters.retry_all()
        assert (retried, left) == (50, [])
        await wait_for_dead_letters(letters, 50)
        failing.fixed = True
        assert await letters.retry_all("Sick") == (50, [])
        await failing.received.wait(50)
    assert sorted(i.new_value for i in failing.received.inputs) == list(range(50))


async def test_drop_deletes_one_letter_and_drop_all_those_of_one_or_all_steps(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    letters = DeadLetters(state)
    async with working(
        state,
        failing_step(FailingHandler(), "Sick", state_trigger()),
        failing_step(FailingHandler(), "Other", state_trigger(scope="users")),
    ):
        for number in range(25):
            await state.set("users", f"key{number}", number)
        found = await wait_for_dead_letters(letters, 50)
    mine = [letter for letter in found if letter.step == "Sick"]
    await letters.drop("Sick", mine[3].id)
    with pytest.raises(DeadLetterMissing, match="has no dead letter"):
        await letters.drop("Sick", mine[3].id)
    assert [letter.id for letter in await letters.list("Sick")] == [letter.id for letter in mine[:3] + mine[4:]]
    assert await letters.drop_all("Sick") == 24
    assert await letters.count() == 25, "another step's letters stay"
    assert await letters.drop_all() == 25
    assert not raw.keys(f"{{{namespace}:*:dead:*")


@pytest.mark.parametrize("id", ["", "x", "0", "0/1", "16/1-1", "99999/1-1", "-1/1-1", "0/1-1", "0/*-1"])
async def test_unknown_id_raises_dead_letter_missing(state: StateManager, id: str) -> None:
    letters = DeadLetters(state)
    for call in (letters.get, letters.retry, letters.drop):
        with pytest.raises(DeadLetterMissing, match="step 'Sick' has no dead letter"):
            await call("Sick", id)


async def test_letter_stays_when_its_step_was_forgotten(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    letters = DeadLetters(state)
    async with working(state, failing_step(FailingHandler(), "Sick", state_trigger())):
        await state.set("users", "ann", 1)
        (letter,) = await wait_for_dead_letters(letters, 1)
    await forget_step(state, "Sick", force=True)
    assert [found.id for found in await letters.list()] == [letter.id], "found, though its step is forgotten"
    with pytest.raises(StepMissing, match="no consumer group"):
        await letters.retry("Sick", letter.id)
    assert (await letters.retry_all())[0] == 0
    assert await letters.count() == 1
    await letters.drop("Sick", letter.id)
    assert await letters.list() == []
    assert not [f for key in raw.keys(f"{{{namespace}:*:leases") for f in raw.hkeys(key) if f.startswith(b"forgotten")]


async def test_letter_stays_when_its_event_was_trimmed(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    gate, started = asyncio.Event(), asyncio.Event()

    async def handler(input: StateTriggerInput) -> None:
        started.set()
        await gate.wait()
        raise ValueError

    letters = DeadLetters(state)
    async with working(state, failing_step(handler, "Sick", state_trigger())):
        await state.set("users", "ann", 1)
        await started.wait()
        for key in raw.scan_iter(f"{{{namespace}:*:events:*"):
            raw.xtrim(key, maxlen=0, approximate=False)
        gate.set()
        (letter,) = await wait_for_dead_letters(letters, 1)
    assert (letter.event_type, letter.scope, letter.error_type) == (None, None, "ValueError")
    with pytest.raises(DeadLetterMissing, match="trimmed"):
        await letters.retry("Sick", letter.id)
    assert await letters.count() == 1


async def test_event_stays_pending_while_the_dead_letter_key_holds_another_type(
    state: StateManager, raw: redis.Redis, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    letters = DeadLetters(state)

    async def handler(input: StateTriggerInput) -> None:
        raise ValueError

    async def dead_letter_is_refused() -> bool:
        return "step Sick: trying again" in caplog.text

    keyspace = await state.connect()
    (stream,) = keyspace.event_streams("users", "ann")
    raw.set(keyspace.dead(stream, "Sick"), "not a stream")
    async with working(state, failing_step(handler, "Sick", state_trigger())):
        await state.set("users", "ann", 1)
        await until(dead_letter_is_refused, "the worker cannot write the dead letter")
        assert await pending(raw, namespace) == 1
        with pytest.raises(StateUnavailable, match="WRONGTYPE"):
            await letters.list("Sick")
        raw.delete(keyspace.dead(stream, "Sick"))
        await wait_for_dead_letters(letters, 1)
        assert await pending(raw, namespace) == 0
