"""Stream triggers: which changes of items fire, what handlers get, order, failures, versions."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from motia_redis import FlowContext, StateManager, Stream, StreamTriggerInput, SyncFlowContext, step, stream
from motia_redis import state as state_trigger
from motia_redis._admin.dead_letters import DeadLetters
from motia_redis._admin.status import read_status
from motia_redis._steps.wants import Wants
from motia_redis._store.keyspace import Keyspace, Layout
from motia_redis.errors import CorruptValue, DeadLetterMissing, StepError, StepMissing
from motia_redis.types import StreamEvent, StreamGroup
from tests.support.commands import run_command
from tests.support.dead_letters import FailingHandler, failing_step, wait_for_dead_letters
from tests.support.waiting import until
from tests.support.workers import Recorder, pending, record, working

if TYPE_CHECKING:
    import redis

    from tests.support.servers import RedisServer


@pytest.fixture
def todo(state: StateManager) -> Stream[Any]:
    return Stream("todo", state=state)


def always(input: Any) -> bool:
    return True


async def wait_until_handled(state: StateManager, raw: redis.Redis) -> None:
    """Wait until all steps have finished all entries, so that what must not fire has not."""

    async def are_handled() -> bool:
        return await pending(raw, state.namespace) == 0

    await until(are_handled, "all entries are finished")


# -- what a handler gets ----------------------------------------------------------------------------------------------


async def test_changes_of_an_item_reach_the_handler_in_order(state: StateManager, todo: Stream[Any]) -> None:
    recorder = Recorder()
    async with working(state, record(recorder, stream("todo"))):
        await todo.set("inbox", "1", {"text": "milk"})
        await todo.update("inbox", "1", [{"op": "add", "path": "/done", "value": True}])
        await todo.delete("inbox", "1")
        await recorder.wait(3)
    milk, done = {"text": "milk"}, {"text": "milk", "done": True}
    assert [change.event for change in recorder.inputs] == [
        StreamEvent(type="create", data=milk),
        StreamEvent(type="update", data=done, old_data=milk),
        StreamEvent(type="delete", data=done, old_data=done),
    ]
    first, *_, last = recorder.inputs
    assert isinstance(first, StreamTriggerInput)
    assert (first.type, first.stream_name, first.group_id, first.id) == ("stream", "todo", "inbox", "1")
    assert first.timestamp == int(first.revision.partition("-")[0])
    assert (first.reason, last.reason) == (None, "deleted")


async def test_context_tells_the_stream_the_group_and_the_item(state: StateManager, todo: Stream[Any]) -> None:
    recorder = Recorder()
    async with working(state, record(recorder, stream("todo"))):
        await todo.set("a/b", "1", 1)
        await recorder.wait(1)
    trigger = recorder.contexts[0].trigger
    assert (trigger.type, trigger.stream, trigger.group, trigger.key) == ("stream", "todo", "a/b", "1")
    assert (trigger.event_type, trigger.attempt, trigger.scope) == ("create", 1, None)
    assert trigger.revision == recorder.inputs[0].revision


async def test_expiry_and_transaction_of_items_fire(state: StateManager, todo: Stream[Any], raw: redis.Redis) -> None:
    recorder = Recorder()
    async with working(state, record(recorder, stream("todo"))):
        async with state.transaction() as tx:
            tx.set(todo.group("inbox"), "1", 1, ttl=0.05)
            tx.set(todo.group("inbox"), "2", 2)
        await recorder.wait(3)
        await state.expire(todo.group("inbox"), "2", 1000)  # no trigger: the item has not changed
        await wait_until_handled(state, raw)
    found = {(change.id, change.event.type): change for change in recorder.inputs}
    assert len(recorder.inputs) == 3
    assert found["1", "delete"].reason == "expired"
    assert found["1", "create"].transaction.size == 2


@dataclass
class Todo:
    text: str
    done: bool = False


async def test_plain_handler_gets_the_change_and_a_stream_without_awaits(state: StateManager, todo: Stream[Any]) -> None:
    done = Recorder()

    def handler(input: StreamTriggerInput[int], ctx: SyncFlowContext) -> None:
        todo.using(ctx.state).set("done", input.id, input.event.data + 1)

    steps = [
        step({"name": "Plain", "triggers": [stream("todo", group_id="inbox")]}).handle(handler),
        record(done, stream("todo", group_id="done")),
    ]
    async with working(state, *steps):
        await todo.set("inbox", "1", 1)
        await done.wait(1)
    assert [(change.id, change.event.data) for change in done.inputs] == [("1", 2)]


async def test_handler_that_runs_again_changes_items_once(state: StateManager, todo: Stream[Any]) -> None:
    runs: list[Any] = []

    async def handler(input: StreamTriggerInput[int], ctx: FlowContext) -> None:
        count = await todo.using(ctx.state).update("counters", "n", [{"op": "increment", "path": "/n", "value": 1}])
        runs.append(count["n"])
        if len(runs) < 3:
            raise ValueError

    async with working(state, record(handler, stream("todo", group_id="inbox"), effects_once=True, backoff=0.01)):
        await todo.set("inbox", "1", 1)

        async def is_done() -> bool:
            return len(runs) == 3

        await until(is_done, "three attempts")
    assert runs == [1, 1, 1]
    assert await todo.get("counters", "n") == {"n": 1}


async def test_log_of_a_failed_attempt_names_stream_group_and_item(
    state: StateManager, todo: Stream[Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with working(state, failing_step(FailingHandler(), "Sick", stream("todo"))):
        await todo.set("a/b", "1", 1)
        await wait_for_dead_letters(DeadLetters(state), 1, "Sick")
    fields = [record.fields for record in caplog.records if "gave up" in record.getMessage()]  # type: ignore[attr-defined]
    assert [(each["stream"], each["group"], each["item"]) for each in fields] == [("todo", "a/b", "1")]
    assert "scope" not in fields[0]


async def test_typed_stream_gives_items_of_its_type_and_others_fail(state: StateManager) -> None:
    typed = Stream("todo", model=Todo, state=state)
    recorder = Recorder()

    def is_done(input: StreamTriggerInput[Todo]) -> bool:
        return input.event.data.done

    trigger = stream(typed, condition=is_done)
    async with working(state, record(recorder, trigger, max_attempts=1)):
        await typed.set("inbox", "1", Todo("milk"))
        await typed.set("inbox", "1", Todo("milk", True))
        await recorder.wait(1)
        await Stream("todo", state=state).set("inbox", "2", {"text": 5})
        (letter,) = await wait_for_dead_letters(DeadLetters(state), 1, "Record")
    assert recorder.inputs[0].event == StreamEvent(type="update", data=Todo("milk", True), old_data=Todo("milk"))
    assert letter.error_type == "SchemaMismatch"
    assert f"event {letter.revision} of scope 'inbox' of stream 'todo' key '2'" in letter.error_text


# -- which changes fire -----------------------------------------------------------------------------------------------


async def test_stream_group_and_item_select_changes(state: StateManager, todo: Stream[Any], raw: redis.Redis) -> None:
    triggers = {
        "All": stream("todo"),
        "Group": stream("todo", group_id="inbox"),
        "Item": stream("todo", item_id="1"),
        "One": stream("todo", group_id="inbox", item_id="1"),
        "Other": stream("tod"),
        "Nested": stream("todo", group_id="inbox/x"),
    }
    recorders = {name: Recorder() for name in triggers}
    steps = [step({"name": name, "triggers": [trigger]}).handle(recorders[name]) for name, trigger in triggers.items()]
    async with working(state, *steps):
        for group in ("inbox", "inbox/x", "done"):
            for item in ("1", "2"):
                await todo.set(group, item, 0)
        await recorders["All"].wait(6)
        await wait_until_handled(state, raw)
    seen = {name: sorted((change.group_id, change.id) for change in recorder.inputs) for name, recorder in recorders.items()}
    assert seen == {
        "All": [(group, item) for group in ("done", "inbox", "inbox/x") for item in ("1", "2")],
        "Group": [("inbox", "1"), ("inbox", "2")],
        "Item": [("done", "1"), ("inbox", "1"), ("inbox/x", "1")],
        "One": [("inbox", "1")],
        "Other": [],
        "Nested": [("inbox/x", "1"), ("inbox/x", "2")],
    }


async def test_state_triggers_get_no_items_and_stream_triggers_no_scopes(
    state: StateManager, todo: Stream[Any], raw: redis.Redis
) -> None:
    changes, items = Recorder(), Recorder()
    steps = [
        step({"name": "Changes", "triggers": [state_trigger(), state_trigger(always)]}).handle(changes),
        step({"name": "Items", "triggers": [stream("todo")]}).handle(items),
    ]
    async with working(state, *steps):
        await todo.set("inbox", "1", 1)
        await state.set("todo", "inbox", 2)
        await changes.wait(1)
        await items.wait(1)
        await wait_until_handled(state, raw)
    assert [change.new_value for change in changes.inputs] == [2]
    assert [change.event.data for change in items.inputs] == [1]


async def test_one_step_reacts_to_streams_and_state(state: StateManager, todo: Stream[Any]) -> None:
    recorder = Recorder()
    async with working(state, record(recorder, stream("todo"), state_trigger(scope="todo"), stream("notes", group_id="a"))):
        await todo.set("inbox", "1", 1)
        await state.set("todo", "1", 2)
        await Stream("notes", state=state).set("a", "1", 3)
        await recorder.wait(3)
    found = sorted((context.trigger.type, context.trigger.index) for context in recorder.contexts)
    assert found == [("state", 1), ("stream", 0), ("stream", 2)]
    assert [context.is_stream() for context in recorder.contexts] == [
        context.trigger.type == "stream" for context in recorder.contexts
    ]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("takes_ctx", [False, True], ids=["input", "input and ctx"])
async def test_condition_decides(
    state: StateManager, todo: Stream[Any], raw: redis.Redis, is_async: bool, takes_ctx: bool
) -> None:
    asked: list[Any] = []

    def is_big(input: StreamTriggerInput[int], *ctx: FlowContext) -> bool:
        asked.extend(context.trigger.stream for context in ctx)
        return input.event.data > 1

    async def later(input: StreamTriggerInput[int], *ctx: FlowContext) -> bool:
        await asyncio.sleep(0)
        return is_big(input, *ctx)

    chosen: Any = later if is_async else is_big

    def without_ctx(input: StreamTriggerInput[int]) -> Any:
        return chosen(input)

    condition: Any = chosen if takes_ctx else without_ctx
    recorder = Recorder()
    async with working(state, record(recorder, stream("todo", condition=condition))):
        for number in range(4):
            await todo.set("inbox", "1", number)
        await recorder.wait(2)
        await wait_until_handled(state, raw)
    assert [change.event.data for change in recorder.inputs] == [2, 3]
    assert set(asked) == ({"todo"} if takes_ctx else set())


async def test_condition_that_raises_is_a_failed_attempt(state: StateManager, todo: Stream[Any]) -> None:
    def fails(input: Any) -> bool:
        raise ValueError("no")

    async with working(state, failing_step(Recorder(), "Sick", stream("todo", condition=fails))):
        await todo.set("inbox", "1", 1)
        (letter,) = await wait_for_dead_letters(DeadLetters(state), 1, "Sick")
    assert (letter.error_type, letter.attempts) == ("ValueError", 2)


# -- order and failures -----------------------------------------------------------------------------------------------


async def test_changes_of_one_item_run_in_order_over_retries_and_workers(state: StateManager, todo: Stream[Any]) -> None:
    seen: dict[str, list[int]] = {}
    failed: set[tuple[str, int]] = set()

    async def handler(input: StreamTriggerInput[int]) -> None:
        await asyncio.sleep(0.001)
        if input.event.data % 5 == 0 and (input.id, input.event.data) not in failed:
            failed.add((input.id, input.event.data))
            raise ValueError
        seen.setdefault(input.id, []).append(input.event.data)

    async def write(item: str) -> None:
        for number in range(20):
            await todo.set("inbox", item, number)

    async with working(state, record(handler, stream("todo"), backoff=0.01), workers=2):
        await asyncio.gather(*(write(str(item)) for item in range(8)))

        async def is_done() -> bool:
            return sum(map(len, seen.values())) >= 160

        await until(is_done, "all changes are handled")
    assert seen == {str(item): list(range(20)) for item in range(8)}


async def test_failing_item_becomes_a_dead_letter_that_can_be_retried(
    state: StateManager, todo: Stream[Any], server: RedisServer, namespace: str
) -> None:
    failing, letters = FailingHandler(), DeadLetters(state)
    async with working(state, failing_step(failing, "Sick", stream("todo"))):
        await todo.set("a/b", "1", {"n": 1})
        (letter,) = await wait_for_dead_letters(letters, 1)
        assert isinstance(letter.scope, StreamGroup)
        assert (letter.scope.stream, letter.scope.group, letter.key) == ("todo", "a/b", "1")
        assert letter.item_change.event == StreamEvent(type="create", data={"n": 1})
        assert letter.new_value == {"n": 1}
        listed = await run_command(server, namespace, "dead", "list")
        assert "stream todo/a/b/1" in listed.stdout
        shown = await run_command(server, namespace, "dead", "show", "--json", "--step", "Sick", letter.id)
        facts = json.loads(shown.stdout)
        assert (facts["scope"], facts["key"], facts["new_value"]) == ("@motia/stream/todo/a/b", "1", {"n": 1})
        failing.fixed = True
        await letters.retry("Sick", letter.id)
        await failing.received.wait(1)
    assert failing.received.inputs[0].event.data == {"n": 1}
    assert failing.received.inputs[0].revision == letter.revision


async def test_letter_of_an_unwanted_item_is_not_retried_and_other_letters_hold_none(
    state: StateManager, todo: Stream[Any]
) -> None:
    letters = DeadLetters(state)
    async with working(state, failing_step(FailingHandler(), "Sick", stream("todo"), state_trigger(scope="s"))):
        await todo.set("inbox", "1", 1)
        (letter,) = await wait_for_dead_letters(letters, 1)
        await state.set("s", "1", 1)
        found = await wait_for_dead_letters(letters, 2)
    (other,) = [each for each in found if each.id != letter.id]
    with pytest.raises(DeadLetterMissing, match="no change of a stream's item"):
        _ = other.item_change

    async def is_announced() -> bool:
        return [version.items for version in (await read_status(state)).steps[0].versions] == [[("todo", "done", None)]]

    async with working(state, failing_step(FailingHandler(), "Sick", stream("todo", group_id="done"))):
        await until(is_announced, "the worker has announced its version")
        with pytest.raises(StepMissing, match="covers scope 'inbox' of stream 'todo', key '1'"):
            await letters.retry("Sick", letter.id)


async def test_entry_of_another_client_fails_and_harms_no_other_item(
    state: StateManager, todo: Stream[Any], raw: redis.Redis
) -> None:
    recorder = Recorder()
    keyspace = await state.connect()
    async with working(state, record(recorder, stream("todo"), max_attempts=1)):
        scope = todo.group("inbox").encode()
        raw.xadd(keyspace.state_keys(scope, b"1").events, {"type": "state:created", "scope": scope, "key": "1", "new": "no JSON"})
        raw.xadd(keyspace.state_keys(scope, b"1").events, {"type": "odd", "scope": scope, "key": "1", "new": "1"})
        await todo.set("inbox", "2", 2)
        await recorder.wait(1)
        found = await wait_for_dead_letters(DeadLetters(state), 2)
    assert [letter.error_type for letter in found] == [CorruptValue.__name__] * 2


# -- versions ---------------------------------------------------------------------------------------------------------


async def test_two_versions_get_their_own_groups(state: StateManager, second: StateManager, server: RedisServer) -> None:
    old, new = Recorder(), Recorder()
    todo = Stream("todo", state=state)
    async with (
        working(state, record(old, stream("todo", group_id="old"))),
        working(second, record(new, stream("todo", group_id="new"), stream("notes", item_id="1"))),
    ):
        for number in range(10):
            await todo.set("old", str(number), number)
            await todo.set("new", str(number), number)
        await old.wait(10)
        await new.wait(10)
        shown = (await read_status(state)).steps[0].versions
        status = await run_command(server, state.namespace, "status")
    assert sorted(change.group_id for change in old.inputs + new.inputs) == ["new"] * 10 + ["old"] * 10
    assert [version.items for version in shown] == [[("notes", None, "1"), ("todo", "new", None)], [("todo", "old", None)]]
    assert "Record: 1 worker of a version for stream todo/old/*" in status.stdout
    assert "stream notes/*/1, stream todo/new/*" in status.stdout


def test_wants_tell_which_items_and_streams_a_version_wants() -> None:
    keyspace = Keyspace("motia", Layout())
    items = (("todo", None, None), ("notes", "a/b", None), ("marks", None, "1"))
    wants = Wants(states=((None, None),), topics=(), items=items)
    assert Wants.decode(orjson.loads(orjson.dumps(wants.encode()))) == wants
    for broken in (1, {}, [1], [["a"]], [["a", 1, None]], [[None, "a", None]], [["", None, None]], [["a", "", None]]):
        assert Wants.decode({"states": [], "topics": [], "items": broken}) is None

    def is_wanted(scope: str, key: str) -> bool:
        return wants.match({b"type": b"state:created", b"scope": scope.encode(), b"key": key.encode()})

    assert is_wanted("scope", "key")
    assert is_wanted(StreamGroup("todo", "x"), "2")
    assert is_wanted(StreamGroup("notes", "a/b"), "2")
    assert is_wanted(StreamGroup("marks", "x"), "1")
    assert not is_wanted(StreamGroup("notes", "a"), "2")
    assert not is_wanted(StreamGroup("marks", "x"), "2")
    assert not is_wanted(StreamGroup("other", "x"), "1")
    assert not is_wanted("@motia/stream/other", "1")

    parts = [Wants(states=(), topics=(), items=(each,)) for each in items]
    everywhere, group, marks = (part.streams(keyspace) for part in parts)
    assert len(everywhere) == 16 * 8
    assert keyspace.state_keys(StreamGroup("notes", "a/b").encode(), b"2").events in group
    assert len(group) == 8
    assert len(marks) == 16, "one lane of each partition"
    assert all(stream.endswith(b":%d" % keyspace.lane(b"1")) for stream in marks)
    assert parts[2].within(keyspace, marks[0]) == parts[2]
    assert not parts[2].within(keyspace, next(stream for stream in everywhere if stream not in marks)).items


# -- definitions ------------------------------------------------------------------------------------------------------


BAD: list[tuple[Any, str]] = [
    (stream(""), "needs the name of a stream, such as stream('todo'), not ''"),
    (stream(None), "needs the name of a stream, such as stream('todo'), not None"),  # type: ignore[call-overload]
    (stream("lone \ud800"), "the stream_name of a stream trigger contains a lone surrogate"),
    (stream("todo", group_id=""), "the group_id of a stream trigger must not be empty"),
    (stream("todo", item_id=5), "the item_id of a stream trigger must be a string, not int"),  # type: ignore[call-overload]
    (stream("todo", condition=5), "the condition of a stream trigger must be a function, not 5"),  # type: ignore[call-overload]
    (state_trigger(scope="@motia/stream/todo/inbox"), "begins with '@motia/', which is reserved"),
    (state_trigger(scope=StreamGroup("todo", "inbox")), "use stream('todo', group_id=...)"),
]


@pytest.mark.parametrize(("trigger", "says"), BAD, ids=[says for _, says in BAD])
def test_trigger_that_does_not_fit_is_rejected_by_its_step(trigger: Any, says: str) -> None:
    with pytest.raises(StepError) as caught:
        step({"name": "S", "triggers": [trigger]})
    assert str(caught.value).startswith("step 'S': ")
    assert says in str(caught.value)


def test_trigger_shows_what_it_reacts_to() -> None:
    assert str(stream("todo")) == "stream todo"
    assert str(stream("todo", group_id="a")) == "stream todo/a"
    assert str(stream("todo", item_id="1", condition=always)) == "stream todo/*/1 (condition)"


def test_trigger_can_be_written_as_a_dict() -> None:
    settings = step({"name": "S", "triggers": [{"type": "stream", "streamName": "todo", "groupId": "a", "condition": always}]})
    assert settings.settings.stream_triggers == (stream("todo", group_id="a", condition=always),)
    with pytest.raises(StepError, match="a stream trigger as a dict: missing a required argument: 'stream_name'"):
        step({"name": "S", "triggers": [{"type": "stream"}]})


def test_input_can_be_made_in_a_test_and_turned_into_a_dict() -> None:
    made = StreamTriggerInput(stream_name="todo", group_id="a", id="1", event=StreamEvent(type="create", data=1))
    assert (made.type, made.timestamp, made.reason) == ("stream", 0, None)
    other: Any = StreamTriggerInput
    assert other(streamName="todo", groupId="a", id="1", event=made.event) == made
    dumped = made.model_dump(by_alias=True)
    assert (dumped["streamName"], dumped["groupId"], dumped["id"]) == ("todo", "a", "1")
    assert dumped["event"] == {"type": "create", "data": 1, "oldData": None}
