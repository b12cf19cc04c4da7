"""Inputs of handlers as a worker makes them: the old value is decoded when it is read."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest

from motia_redis import StateTriggerInput
from motia_redis._steps.events import decode_change
from motia_redis._store import codec
from motia_redis.errors import CorruptValue

FIELDS = {b"type": b"state:updated", b"scope": b"users", b"key": b"ann", b"new": b'{"n":2}', b"old": b"1", b"kept": b"5:1"}
WHOLE: StateTriggerInput[Any] = StateTriggerInput(
    group_id="users", item_id="ann", old_value={"n": 1}, new_value={"n": 2}, event_type="state:updated", revision="5-1"
)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return a list that gets every text that is decoded."""
    texts: list[bytes] = []
    loads = codec.orjson.loads
    monkeypatch.setattr(codec.orjson, "loads", lambda text: texts.append(text) or loads(text))
    return texts


def test_old_value_is_decoded_once_when_it_is_read(decoded: list[bytes]) -> None:
    change = decode_change("5-1", FIELDS)
    assert (change.new_value, change.item_id, change.timestamp, change.type) == ({"n": 2}, "ann", 5, "state")
    assert decoded == [b'{"n":2}']
    assert change.old_value == {"n": 1}
    assert change.old_value is change.old_value
    assert decoded == [b'{"n":2}', b'{"n":1}']


@pytest.mark.parametrize(
    "read",
    [
        lambda change: change,
        copy.copy,
        copy.deepcopy,
        lambda change: pickle.loads(pickle.dumps(change)),
        dataclasses.replace,
    ],
    ids=["itself", "copy", "deepcopy", "pickle", "replace"],
)
def test_change_whose_old_value_was_not_read_is_like_one_that_was_made_of_values(read: Any) -> None:
    for compare in (lambda a, b: a == b, lambda a, b: b == a, lambda a, b: repr(a) == repr(b)):
        assert compare(read(decode_change("5-1", FIELDS)), WHOLE)
    assert read(decode_change("5-1", FIELDS)).model_dump() == WHOLE.model_dump()
    assert dataclasses.asdict(read(decode_change("5-1", FIELDS))) == dataclasses.asdict(WHOLE)
    assert type(read(decode_change("5-1", FIELDS))) is StateTriggerInput


def test_old_value_that_is_not_json_raises_when_it_is_read() -> None:
    change = decode_change("5-1", {**FIELDS, b"old": b"]"})
    assert change.new_value == {"n": 2}
    for _ in range(2):
        with pytest.raises(CorruptValue, match="event 5-1 of scope 'users' key 'ann'"):
            _ = change.old_value


def test_defaults_of_a_change_made_by_a_test_are_as_before() -> None:
    created: StateTriggerInput[Any] = StateTriggerInput(group_id="users", item_id="ann", new_value=1)
    assert (created.old_value, created.event_type) == (None, "state:created")
    with pytest.raises(dataclasses.FrozenInstanceError):
        created.old_value = 1  # type: ignore[misc]
