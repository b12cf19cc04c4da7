"""Typed scopes without an event loop."""

from __future__ import annotations

import copy
import os
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, field_validator

from motia_redis.errors import KeyMissing, SchemaMismatch, StateError
from motia_redis.types import Change

if TYPE_CHECKING:
    from motia_redis.sync import StateManager


class User(BaseModel):
    name: str
    age: int = 0


class Ruled(User):
    @field_validator("age")
    @classmethod
    def check(cls, age: int) -> int:
        if age > 150:
            raise ValueError("too old")
        return age


def test_all_calls_have_values_of_the_type(state: StateManager) -> None:
    users = state.scope("users", User)
    assert users.set("ann", User(name="Ann")) == User(name="Ann")
    users.set_many({"bob": User(name="Bob", age=7), "cy": User(name="Cy")})
    assert users.get("ann") == User(name="Ann")
    assert users.get("dan") is None
    entry = users.entry("bob")
    assert entry is not None
    assert entry.value.age == 7
    assert users.get_many(["bob", "dan"]) == users.get_many(["bob", "dan"], atomic=False) == {"bob": User(name="Bob", age=7)}
    assert sorted(user.name for user in users.list()) == ["Ann", "Bob", "Cy"]
    assert dict(users.scan()) == users.items()
    assert sorted(users.keys()) == ["ann", "bob", "cy"]
    assert users.count() == 3
    assert users.update("bob", [{"op": "increment", "path": "/age", "value": 1}]).age == 8
    assert users.patch("bob", name="Bo", age=9) == User(name="Bo", age=9)  # "name" and "method" are fields like others
    assert users.modify("bob", lambda user: User(name="Bob", age=user.age + 1 if user else 0)).age == 10
    assert users.expire("cy", 100)
    assert users.delete("ann") == User(name="Ann")
    assert users.delete_many(["bob"]) == 1
    users.clear()
    assert users.count() == 0


def test_what_is_not_of_the_type_is_rejected(state: StateManager) -> None:
    users = state.scope("users", User)
    state.set("users", "bad", {"name": 1})
    for read in (users.get, users.entry, users.delete):
        with pytest.raises(SchemaMismatch) as caught:
            read("bad")
        assert (caught.value.scope, caught.value.key, caught.value.field) == ("users", "bad", "/name")
    with pytest.raises(SchemaMismatch):
        users.set("ann", {"name": "Ann"})  # type: ignore[arg-type]
    with pytest.raises(KeyMissing):
        users.patch("ann", age=1)
    with pytest.raises(StateError, match="modify takes a function"):
        users.modify("ann", 7)  # type: ignore[arg-type]


def test_patch_of_a_type_with_rules_reads_first(state: StateManager) -> None:
    ruled = state.scope("users", Ruled)
    ruled.set("ann", Ruled(name="Ann", age=30))
    assert ruled.patch("ann", age=31).age == 31
    with pytest.raises(SchemaMismatch, match="too old"):
        ruled.patch("ann", age=200)


def test_watches_and_mirrors_have_values_of_the_type(state: StateManager) -> None:
    users = state.scope("users", User)
    with users.watch() as watch, users.mirror() as mirror:
        users.set("ann", User(name="Ann"))
        change = next(watch)
        assert isinstance(change, Change)
        assert change.value == User(name="Ann")
        mirror.reached(change.revision)
        assert mirror["ann"] == User(name="Ann")
        assert watch.scope == "users"


def test_scope_goes_on_in_copies_and_in_a_forked_child(state: StateManager) -> None:
    users = state.scope("users", User)
    users.set("ann", User(name="Ann"))
    for twin in (copy.copy(users), pickle.loads(pickle.dumps(users)), users.using(state)):
        assert twin.get("ann") == User(name="Ann")
        assert (twin.name, twin.model, repr(twin)) == (users.name, users.model, repr(users))
    child = os.fork()
    if child == 0:
        found: Any = None
        try:
            found = users.patch("ann", age=5)
        finally:
            os._exit(0 if found == User(name="Ann", age=5) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert users.get("ann") == User(name="Ann", age=5)
