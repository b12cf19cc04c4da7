"""Invalid input: each kind raises its own error, which names place and reason, and changes nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import StateManager
from motia_redis._store.limits import Limits
from motia_redis.errors import InvalidName, InvalidOperation, InvalidPointer, InvalidValue, StateError, ValueTooLarge

if TYPE_CHECKING:
    from tests.support.servers import RedisServer

BAD_NAMES = ["", "x" * 4097, "é" * 2049, None, 1, b"bytes", ["list"], "lone \ud800 surrogate", "@motia/stream/x"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: repr(name)[:20])
@pytest.mark.parametrize("kind", ["scope", "key"])
async def test_invalid_names_are_rejected_by_every_method(state: StateManager, kind: str, name: Any) -> None:
    scope, key = (name, "key") if kind == "scope" else ("scope", name)
    for call in (
        state.get(scope, key),
        state.entry(scope, key),
        state.set(scope, key, 1),
        state.update(scope, key, [{"op": "add", "path": "/a", "value": 1}]),
        state.delete(scope, key),
        state.get_many(scope, [key]),
        state.get_many(scope, ["good", key], atomic=False),
        state.modify(scope, key, lambda _: 1),
    ):
        with pytest.raises(InvalidName, match=f"the {kind} "):
            await call
    if kind == "scope":
        for call in (state.list(scope), state.clear(scope)):  # type: ignore[assignment]
            with pytest.raises(InvalidName, match="the scope "):
                await call
    assert await state.list_groups() == []


class Unknown:
    """A type without a JSON form."""


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (math.nan, "nan is not a JSON number"),
        ({"a": [1, math.inf]}, "at '/a/1': inf is not a JSON number"),
        ({"a": None, "b": -math.inf}, "at '/b': -inf"),
        (2**64, "an integer of more than 64 bits"),
        ({"x": -(2**63) - 1}, "at '/x': an integer of more than 64 bits"),
        ("a\ud800", "lone surrogate"),
        ({"a/b": ["\udfff"]}, "at '/a~1b/0': text with a lone surrogate"),
        ({"\ud800": 1}, "member name .* lone surrogate"),
        ({1: 2}, "member name 1 is not a string"),
        ({"a": {None: 2}}, "at '/a': member name None is not a string"),
        ({1, 2}, "set is not a JSON value"),
        (b"bytes", "bytes is not a JSON value"),
        (Unknown(), "Unknown is not a JSON value"),
        (CYCLE, "contains itself"),
    ],
)
async def test_values_that_json_cannot_hold_are_rejected_with_their_path(state: StateManager, value: Any, reason: str) -> None:
    await state.set("scope", "key", "before")
    with pytest.raises(InvalidValue, match=f"scope 'scope' key 'key': .*{reason}"):
        await state.set("scope", "key", value)
    with pytest.raises(InvalidValue, match=rf"scope 'scope' key 'key': operation 1 \(add\): .*{reason}"):
        await state.update("scope", "key", [{"op": "test", "path": "", "value": 1}, {"op": "add", "path": "/a", "value": value}])
    assert await state.get("scope", "key") == "before"


async def test_null_next_to_finite_numbers_is_accepted(state: StateManager) -> None:
    value = {"a": None, "b": [None, 1.5, "null"], "c": "NaN"}
    assert await state.set("scope", "key", value) == value


@pytest.mark.parametrize(
    ("operations", "error", "reason"),
    [
        ("text", InvalidOperation, "must be a list of dicts"),
        ({"op": "add"}, InvalidOperation, "must be a list of dicts"),
        ([1], InvalidOperation, "operation 0 must be a dict"),
        ([{}], InvalidOperation, "needs either `op`"),
        ([{"op": "add", "type": "set", "path": "/a", "value": 1}], InvalidOperation, "needs either `op`"),
        ([{"op": "spam", "path": "/a"}], InvalidOperation, "unknown operation 'spam'"),
        ([{"op": ["add"], "path": "/a"}], InvalidOperation, "unknown operation"),
        ([{"op": "put", "path": "/a", "value": 1}], InvalidOperation, "unknown operation 'put'"),
        ([{"type": "add", "path": "a", "value": 1}], InvalidOperation, "unknown operation 'add'"),
        ([{"op": "add", "path": "/a"}], InvalidOperation, "`value` is missing"),
        ([{"op": "add", "value": 1}], InvalidOperation, "`path` is missing"),
        ([{"op": "move", "path": "/a"}], InvalidOperation, "`from` is missing"),
        ([{"op": "move", "from": "/a", "path": "/a/b"}], InvalidOperation, "into itself"),
        ([{"op": "remove", "path": ""}], InvalidOperation, "use delete"),
        ([{"op": "add", "path": "a", "value": 1}], InvalidPointer, "start with a slash"),
        ([{"op": "add", "path": 1, "value": 1}], InvalidPointer, "must be a string"),
        ([{"op": "add", "path": "/~2", "value": 1}], InvalidPointer, "neither ~0 nor ~1"),
        ([{"op": "add", "path": "/\ud800", "value": 1}], InvalidPointer, "lone surrogate"),
        ([{"op": "add", "path": "/a" * 129, "value": 1}], InvalidPointer, "129 segments, the limit is 128"),
        ([{"op": "add", "path": "/" + "a" * 5000, "value": 1}], InvalidPointer, "over 4096 bytes"),
        ([{"op": "increment", "path": "/n", "value": "1"}], InvalidValue, "must be a number"),
        ([{"op": "increment", "path": "/n", "value": True}], InvalidValue, "must be a number"),
        ([{"op": "increment", "path": "/n", "value": math.inf}], InvalidValue, "inf is not a JSON number"),
        ([{"type": "increment", "path": "n", "by": None}], InvalidValue, "`by` must be a number"),
        ([{"type": "set", "path": 1, "value": 1}], InvalidOperation, "field name or a list"),
        ([{"op": "merge", "path": "/m", "value": [1]}], InvalidValue, "must be a dict"),
        ([{"op": "test", "path": "/a", "value": 1}] * 1001, InvalidOperation, "1001 operations, the limit is 1000"),
    ],
)
async def test_malformed_operations_are_rejected_before_any_command_is_sent(
    state: StateManager, operations: Any, error: type[StateError], reason: str
) -> None:
    await state.set("scope", "key", {"n": 1})
    before = await state.entry("scope", "key")
    with pytest.raises(error, match=f"scope 'scope' key 'key': .*{reason}"):
        await state.update("scope", "key", operations)
    assert await state.entry("scope", "key") == before


async def test_error_names_the_index_of_the_failing_operation(state: StateManager) -> None:
    good = {"op": "add", "path": "/a", "value": 1}
    with pytest.raises(InvalidOperation, match=r"operation 2 \(move\): `from` is missing"):
        await state.update("scope", "key", [good, good, {"op": "move", "path": "/b"}])


async def test_values_over_the_limit_are_rejected_as_argument_and_as_result(server: RedisServer, namespace: str) -> None:
    async with StateManager(server.url, namespace=namespace, limits=Limits(value_bytes=1000)) as state:
        await state.set("scope", "key", {"list": ["x" * 900]})
        with pytest.raises(ValueTooLarge, match="1102 bytes of JSON, the limit is 1000"):
            await state.set("scope", "key", "x" * 1100)
        with pytest.raises(ValueTooLarge, match=r"scope 'scope' key 'key': the result of the update would be 1\d\d\d bytes"):
            await state.update("scope", "key", [{"op": "add", "path": "/list/-", "value": "x" * 900}])
        assert await state.get("scope", "key") == {"list": ["x" * 900]}
        # An update may make room first: only the result counts.
        ops = [{"op": "remove", "path": "/list/0"}, {"op": "add", "path": "/list/-", "value": "y" * 900}]
        assert await state.update("scope", "key", ops) == {"list": ["y" * 900]}


async def test_enqueue_rejects_invalid_topics_and_data(state: StateManager) -> None:
    with pytest.raises(InvalidName, match="the topic "):
        await state.enqueue("", 1)
    with pytest.raises(InvalidName, match="the key "):
        await state.enqueue("topic", 1, key="")
    with pytest.raises(InvalidValue, match="topic 'topic': nan"):
        await state.enqueue("topic", math.nan)
