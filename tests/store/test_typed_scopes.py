"""Typed scopes: values of a type in and out, and SchemaMismatch for all else."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, NotRequired
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    RootModel,
    SecretStr,
    ValidationInfo,
    computed_field,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict

from motia_redis import Entry, StateManager, StateTriggerInput, stateManager, types
from motia_redis._store.keyspace import Subject
from motia_redis._store.schemas import Schema
from motia_redis.errors import (
    CorruptValue,
    InvalidName,
    InvalidValue,
    KeyMissing,
    RevisionConflict,
    SchemaMismatch,
    StateError,
)
from motia_redis.types import Change, Synced, TypedScope

if TYPE_CHECKING:
    import redis


class Color(Enum):
    RED = "red"


class Address(BaseModel):
    street: str
    lines: list[str] = []


class User(BaseModel):
    name: str = Field(min_length=1)
    age: int
    ratio: float = 0.0
    joined: date | None = None
    address: Address | None = None


@dataclass
class Cart:
    owner: str
    items: list[str] = field(default_factory=list)
    total: Decimal = Decimal(0)


class Flag(TypedDict):
    enabled: bool
    since: NotRequired[datetime]


ANN = User(name="Ann", age=7)


@pytest.fixture
def users(state: StateManager) -> TypedScope[User]:
    return state.scope("users", User)


async def mismatch(awaitable: Any) -> SchemaMismatch:
    with pytest.raises(SchemaMismatch) as raised:
        await awaitable
    return raised.value


# -- values of each kind of type --------------------------------------------------------------------------------------

ALL_TYPES = [
    pytest.param(
        User, User(name="Ann", age=2**63 - 1, ratio=0.1, joined=date(2026, 1, 2), address=Address(street="x")), id="model"
    ),
    pytest.param(Cart, Cart("ann", ["a"], Decimal("1.10")), id="dataclass"),
    pytest.param(Flag, {"enabled": True, "since": datetime(2026, 1, 2, 3, 4, 5, 6, UTC)}, id="TypedDict"),
]


@pytest.mark.parametrize(("model", "value"), ALL_TYPES)
async def test_value_comes_back_by_every_call_as_it_was_given(state: StateManager, model: Any, value: Any) -> None:
    scope = state.scope("things", model)
    assert await scope.get("a") is None
    assert await scope.entry("a") is None
    assert await scope.set("a", value) == value
    assert await scope.get("a") == value
    assert type(await scope.get("a")) is type(value)
    assert await scope.get_many(["a", "b"]) == {"a": value}
    assert await scope.get_many(["a", "b"], atomic=False) == {"a": value}
    assert await scope.list() == [value]
    assert await scope.items() == {"a": value}
    assert await scope.keys() == ["a"]
    assert await scope.count() == 1
    assert [pair async for pair in scope.scan()] == [("a", value)]
    entry = await scope.entry("a")
    assert isinstance(entry, Entry)
    assert entry.value == value
    assert await scope.modify("a", lambda old: old) == value
    await scope.set_many({"b": value, "c": value})
    assert await scope.delete_many(["b", "d"]) == 1
    assert await scope.delete("c") == value
    assert await scope.delete("c") is None
    await scope.clear()
    assert await scope.count() == 0


class Everything(BaseModel):
    number: Decimal
    at: datetime
    day: date
    pause: timedelta
    name: UUID
    color: Color
    tags: set[str]
    pair: tuple[int, float]
    by_number: dict[int, str]
    big: int
    small: float
    anything: Any


async def test_parts_of_types_that_json_does_not_have_come_back_as_they_were(state: StateManager) -> None:
    scope = state.scope("things", Everything)
    value = Everything(
        number=Decimal("12345678901234567890.10"),
        at=datetime(2026, 1, 2, 3, 4, 5, 678901, ZoneInfo("Europe/Berlin")),
        day=date(2026, 1, 2),
        pause=timedelta(days=3, microseconds=1),
        name=UUID(int=7),
        color=Color.RED,
        tags={"b", "a"},
        pair=(1, 0.1),
        by_number={1: "x"},
        big=2**64 - 1,
        small=5e-324,
        anything={"a": [None, True, 1.5]},
    )
    await scope.set("a", value)
    assert await scope.get("a") == value


async def test_time_that_is_there_twice_keeps_its_offset(state: StateManager) -> None:
    since = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)
    scope = state.scope("flags", Flag)
    await scope.set("a", {"enabled": True, "since": since})
    read = await scope.get("a")
    assert read is not None
    assert read["since"].utcoffset() == since.utcoffset() == timedelta(hours=1)
    assert read["since"].astimezone(UTC) == since.astimezone(UTC)


def parameters(method: Any) -> list[tuple[str, Any, Any]]:
    found = inspect.signature(method).parameters.values()
    return [(one.name, one.kind, one.default) for one in found if one.name not in ("self", "scope")]


SCOPE_CALLS = [
    name
    for name, method in inspect.getmembers(StateManager, inspect.isfunction)
    if not name.startswith("_") and "scope" in inspect.signature(method).parameters
]


@pytest.mark.parametrize("name", SCOPE_CALLS)
def test_every_call_for_a_scope_is_there_with_the_same_arguments(name: str) -> None:
    assert parameters(getattr(TypedScope, name)) == parameters(getattr(StateManager, name))


def test_public_generic_types_can_be_subscripted_when_a_program_runs() -> None:
    for generic in (
        Entry,
        StateTriggerInput,
        types.Change,
        types.Watch,
        types.Mirror,
        types.WatchItem,
        types.Condition,
        TypedScope,
    ):
        assert generic[User]  # type: ignore[index]


async def test_arguments_are_those_of_the_untyped_calls_and_work(state: StateManager, users: TypedScope[User]) -> None:
    await users.set("ann", ANN, ttl=60, if_revision=None, idempotency_key="first")
    await users.set("ann", ANN, ttl=60, if_revision=None, idempotency_key="first")
    with pytest.raises(RevisionConflict):
        await users.set("ann", ANN, if_revision=None)
    entry = await users.entry("ann")
    assert entry is not None
    assert entry.expires_at == pytest.approx(time.time() + 60, abs=5)
    assert await users.expire("ann", None)
    new = await users.update("ann", [{"op": "increment", "path": "/age", "value": 1}], if_revision=(await revision(state)))
    assert new == User(name="Ann", age=8)
    with pytest.raises(RevisionConflict):
        await users.delete("ann", if_revision="1-1")


async def revision(state: StateManager) -> str:
    entry = await state.entry("users", "ann")
    assert entry is not None
    return entry.revision


# -- bad data that is stored ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "place"),
    [
        ({"name": "Ann", "age": "7"}, "/age"),
        ({"name": "Ann", "age": 7.0}, "/age"),
        ({"name": "Ann", "age": True}, "/age"),
        ({"name": "Ann"}, "/age"),
        ({"name": "", "age": 7}, "/name"),
        ({"name": "Ann", "age": 7, "joined": 20000}, "/joined"),
        ({"name": "Ann", "age": 7, "address": {"street": "x", "lines": ["a", 1]}}, "/address/lines/1"),
        ({"name": "Ann", "age": 7, "address": {}}, "/address/street"),
        ({"name": "Ann", "age": 7, "ratio": 2**53 + 1}, "/ratio"),
        (None, ""),
        ([], ""),
        ("Ann", ""),
    ],
    ids=str,
)
async def test_stored_value_of_another_type_is_rejected_by_every_read(
    state: StateManager, users: TypedScope[User], stored: Any, place: str
) -> None:
    await state.set("users", "ann", stored)
    calls: list[Any] = [
        users.get,
        users.entry,
        lambda key: users.get_many([key]),
        lambda _: users.items(),
        lambda _: users.list(),
    ]
    for call in calls:
        error = await mismatch(call("ann"))
        assert (error.scope, error.key, error.field) == ("users", "ann", place)
        assert str(error).startswith("scope 'users' key 'ann': the stored value does not match User: ")
        assert "untyped set() or update()" in str(error)
    assert await mismatch(users.modify("ann", lambda _: ANN))
    with pytest.raises(SchemaMismatch):
        _ = [pair async for pair in users.scan()]
    assert await state.get("users", "ann") == stored


async def test_message_tells_three_places_and_how_many_more(state: StateManager, users: TypedScope[User]) -> None:
    await state.set("users", "ann", {"name": 1, "age": "7", "ratio": "x", "joined": "y", "address": 5})
    text = str(await mismatch(users.get("ann")))
    assert "at '/name': Input should be a valid string, not 1; at '/age'" in text
    assert "; and 2 more; repair" in text


async def test_place_in_a_union_is_that_of_the_document(state: StateManager) -> None:
    class Cat(BaseModel):
        lives: int

    class Pets(BaseModel):
        pets: list[Cat | list[Cat]]

    await state.set("pets", "a/~b", {"pets": [{"lives": 9}, {"lives": "9"}]})
    error = await mismatch(state.scope("pets", Pets).get("a/~b"))
    assert error.field == "/pets/1/lives"


@pytest.mark.parametrize("text", [b"{", b"NaN", b'{"name":"Ann","age":7,"ratio":NaN}', b'{"name":"Ann","age":7,"ratio":1e400}'])
async def test_text_that_is_no_json_is_corrupt_and_not_a_mismatch(
    users: TypedScope[User], raw: redis.Redis, namespace: str, text: bytes
) -> None:
    await users.set("ann", ANN)
    (values,) = raw.keys(f"{{{namespace}:*}}:state:users")
    raw.hset(values, "ann", text)
    with pytest.raises(CorruptValue):
        await users.get("ann")


@pytest.mark.parametrize("number", ["0.30000000000000004", "9007199254740992", "1e22", "5e-324", "0.000012345678901234567"])
async def test_float_of_many_digits_is_read(users: TypedScope[User], raw: redis.Redis, namespace: str, number: str) -> None:
    await users.set("ann", ANN)
    (values,) = raw.keys(f"{{{namespace}:*}}:state:users")
    raw.hset(values, "ann", f'{{"name":"Ann","age":7,"ratio":{number}}}')
    user = await users.get("ann")
    assert user is not None
    assert user.ratio == float(number)


async def test_decimal_of_more_digits_than_a_float_has_is_rejected_as_a_json_number(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    carts = state.scope("carts", Cart)
    await carts.set("ann", Cart("ann"))
    (values,) = raw.keys(f"{{{namespace}:*}}:state:carts")
    raw.hset(values, "ann", '{"owner":"ann","items":[],"total":1.10}')
    assert await carts.get("ann") == Cart("ann", total=Decimal("1.1"))
    for total in ("12345678901234567890.12345", "1234567890.12345678", "0.1234567890123456789"):
        raw.hset(values, "ann", f'{{"owner":"ann","items":[],"total":{total}}}')
        assert (await mismatch(carts.get("ann"))).field == "/total"
    raw.hset(values, "ann", '{"owner":"ann","items":[],"total":123456789012345678901234567890}')
    assert await carts.get("ann") == Cart("ann", total=Decimal(123456789012345678901234567890))


class Numbers(BaseModel):
    f: float = 0.0
    d: Decimal = Decimal(0)
    i: int = 0
    both: int | float = 0


@given(
    st.sampled_from("fdi") | st.just("both"),
    st.one_of(
        st.integers(-(2**70), 2**70).map(str),
        st.floats(allow_nan=False, allow_infinity=False).map(repr),
        st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30, places=12).map("{:f}".format),
    ),
)
def test_number_is_read_without_a_change_or_rejected(name: str, text: str) -> None:
    document = f'{{"x":[1],"{name}":{text}}}'.encode()
    try:
        value = getattr(Schema.of(Numbers).decode(document, subject=Subject("s", "k")), name)
    except SchemaMismatch as mismatch:
        place = mismatch.field
    else:
        place = f"/{name}"
        is_rounded = isinstance(value, float) and not text.lstrip("-").isdigit()
        assert value == (float(text) if is_rounded else Decimal(text))
    assert place == f"/{name}"


async def test_deletion_of_a_value_of_another_type_raises_and_stands(state: StateManager, users: TypedScope[User]) -> None:
    await state.set("users", "ann", {"name": 5})
    assert (await mismatch(users.delete("ann"))).field == "/name"
    assert await state.entry("users", "ann") is None


async def test_keys_count_clear_and_delete_many_take_values_of_other_types(state: StateManager, users: TypedScope[User]) -> None:
    await state.set_many("users", {"ann": 1, "bob": 2})
    assert sorted(await users.keys()) == ["ann", "bob"]
    assert await users.count() == 2
    assert await users.delete_many(["ann"]) == 1
    await users.clear()
    assert await users.count() == 0


# -- bad data that is given -------------------------------------------------------------------------------------------


class Member(User):
    level: int = 1


BAD_USERS = [
    (User.model_construct(name="Ann", age="7"), "/age"),
    (User.model_construct(name="Ann"), "/age"),
    (User.model_construct(name="Ann", age=7, address=Address.model_construct(street=5)), "/address/street"),
    (User.model_construct(name="Ann", age=7, ratio=Decimal("0.1")), "/ratio"),
    (User.model_construct(name="Ann", age=7, joined=object()), ""),
    (Member(name="Ann", age=7), ""),
    ({"name": "Ann", "age": 7}, ""),
    (None, ""),
]


@pytest.mark.parametrize(("value", "place"), BAD_USERS, ids=lambda part: str(part)[:30])
async def test_value_of_another_type_is_rejected_before_anything_is_sent(
    state: StateManager, users: TypedScope[User], value: Any, place: str
) -> None:
    await users.set("ann", ANN)
    before = await revision(state)
    error = await mismatch(users.set("ann", value))
    assert (error.scope, error.key, error.field) == ("users", "ann", place)
    assert str(error).endswith("; nothing was sent")
    error = await mismatch(users.set_many({"bob": ANN, "ann": value}, atomic=False))
    assert (error.key, error.field) == ("ann", place)
    if value is not None:
        assert (await mismatch(users.modify("ann", lambda _: value))).field == place
    assert await revision(state) == before
    assert await users.items() == {"ann": ANN}


async def test_object_of_a_subclass_is_rejected_with_its_class(users: TypedScope[User]) -> None:
    assert "the Member is read back as another value" in str(await mismatch(users.set("ann", Member(name="Ann", age=7))))


class Lossy(BaseModel):
    password: SecretStr | None = None
    anything: Any = None
    pet: Address | None = None
    ratio: float = 0.0


class House(Address):
    rooms: int = 3


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (Lossy(password=SecretStr("x")), "/password"),
        (Lossy(anything={"at": date(2026, 1, 2)}), "/anything/at"),
        (Lossy(anything=[{1, 2}]), "/anything/0"),
        (Lossy(pet=House(street="x")), "/pet"),
    ],
    ids=str,
)
async def test_value_that_would_be_read_back_as_another_one_is_rejected(state: StateManager, value: Any, place: str) -> None:
    error = await mismatch(state.scope("things", Lossy).set("a", value))
    assert error.field == place


async def test_values_that_json_cannot_hold_are_rejected_as_everywhere(state: StateManager, users: TypedScope[User]) -> None:
    with pytest.raises(InvalidValue, match="/ratio"):
        await users.set("ann", User(name="Ann", age=7, ratio=float("nan")))
    with pytest.raises(InvalidValue, match="/age"):
        await users.set("ann", User(name="Ann", age=2**64))
    with pytest.raises(InvalidValue, match="set_many takes a dict"):
        await users.set_many([("ann", ANN)])  # type: ignore[arg-type]
    assert await users.count() == 0


async def test_tuple_in_a_part_of_any_type_is_stored_as_an_array(state: StateManager) -> None:
    scope = state.scope("things", Lossy)
    await scope.set("a", Lossy(anything={"pair": (1, 2)}))
    assert await scope.get("a") == Lossy(anything={"pair": [1, 2]})


async def test_unknown_member_of_a_typed_dict_is_rejected(state: StateManager) -> None:
    value: Any = {"enabled": True, "nick": "x"}
    assert (await mismatch(state.scope("flags", Flag).set("a", value))).field == "/nick"


class Cached(BaseModel):
    name: str
    hidden: int = Field(default=0, exclude=True)
    _cache: dict[str, int] = PrivateAttr(default_factory=dict)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def upper(self) -> str:
        return self.name.upper()


async def test_what_a_model_does_not_store_is_no_obstacle(state: StateManager) -> None:
    scope = state.scope("things", Cached)
    value = Cached(name="Ann", hidden=5)
    value._cache["x"] = 1
    await scope.set("a", value)
    assert await state.get("things", "a") == {"name": "Ann"}
    assert await scope.get("a") == Cached(name="Ann")


class Aliased(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)
    first_name: str
    age: int = Field(default=0, alias="the/age")


async def test_aliases_are_the_names_of_the_members(state: StateManager) -> None:
    scope = state.scope("things", Aliased)
    await scope.set("a", Aliased(first_name="Ann"))
    assert await state.get("things", "a") == {"firstName": "Ann", "the/age": 0}
    assert await scope.patch("a", first_name="Bob", age=7) == Aliased(first_name="Bob", age=7)
    assert await state.get("things", "a") == {"firstName": "Bob", "the/age": 7}
    assert (await mismatch(scope.patch("a", age="7"))).field == "/the~1age"


async def test_alias_under_which_a_value_would_not_be_read_is_rejected(state: StateManager) -> None:
    class OneWay(BaseModel):
        name: str = Field(default="", validation_alias=AliasChoices("in"), serialization_alias="out")

    assert await mismatch(state.scope("things", OneWay).set("a", OneWay.model_validate({"in": "x"})))


# -- unknown members --------------------------------------------------------------------------------------------------


class Closed(BaseModel, extra="forbid"):
    name: str


class Open(BaseModel, extra="allow"):
    name: str


async def test_members_that_the_type_does_not_know_are_kept_by_patch_and_left_out_by_modify(state: StateManager) -> None:
    class Named(BaseModel):
        name: str

    scope = state.scope("things", Named)
    await state.set("things", "a", {"name": "Ann", "nick": 1.50})
    assert await scope.patch("a", name="Bob") == Named(name="Bob")
    assert await state.get("things", "a") == {"name": "Bob", "nick": 1.5}
    await scope.modify("a", lambda value: value)  # type: ignore[arg-type,return-value]
    assert await state.get("things", "a") == {"name": "Bob"}


async def test_type_that_allows_or_forbids_unknown_members_decides(state: StateManager) -> None:
    await state.set("things", "a", {"name": "Ann", "nick": 1})
    await state.scope("things", Open).modify("a", lambda value: value)  # type: ignore[arg-type,return-value]
    assert await state.get("things", "a") == {"name": "Ann", "nick": 1}
    assert (await mismatch(state.scope("things", Closed).get("a"))).field == "/nick"


# -- patch ------------------------------------------------------------------------------------------------------------


async def test_patch_sets_only_the_fields_given_in_one_change(state: StateManager, users: TypedScope[User]) -> None:
    await state.set("users", "ann", {"nick": "A", "name": "Ann", "age": 7})
    async with state.watch("users") as watch:
        new = await users.patch("ann", age=8, joined=date(2026, 1, 2), address=Address(street="x"))
        change = await anext(aiter(watch))
    assert new == User(name="Ann", age=8, joined=date(2026, 1, 2), address=Address(street="x"))
    assert isinstance(change, Change)
    assert change.revision == await revision(state)
    assert await state.get("users", "ann") == {
        "nick": "A",
        "name": "Ann",
        "age": 8,
        "joined": "2026-01-02",
        "address": {"street": "x", "lines": []},
    }


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"age": "8"}, "/age"),
        ({"name": ""}, "/name"),
        ({"name": "Bob", "nick": "B"}, "/nick"),
        ({"joined": "2026-01-02"}, "/joined"),
        ({"address": Address.model_construct(street=1)}, "/address/street"),
        ({"address": House(street="x")}, "/address"),
    ],
    ids=str,
)
async def test_patch_rejects_an_unknown_field_and_a_wrong_value_before_anything_is_sent(
    users: TypedScope[User], fields: dict[str, Any], place: str
) -> None:
    await users.set("ann", ANN)
    error = await mismatch(users.patch("ann", **fields))
    assert (error.scope, error.key, error.field) == ("users", "ann", place)
    assert "; nothing was sent" in str(error)
    assert await users.get("ann") == ANN


async def test_patch_takes_a_nested_model_as_its_constructor_does(users: TypedScope[User]) -> None:
    await users.set("ann", ANN)
    assert await users.patch("ann", address={"street": "x"}) == User(name="Ann", age=7, address=Address(street="x"))


async def test_patch_of_a_missing_key_is_rejected_and_creates_nothing(users: TypedScope[User]) -> None:
    with pytest.raises(KeyMissing, match="set"):
        await users.patch("ann", name="Ann", age=7)
    assert await users.count() == 0


async def test_patch_without_a_field_is_rejected(users: TypedScope[User]) -> None:
    with pytest.raises(StateError, match="at least one field"):
        await users.patch("ann")


async def test_patches_of_different_fields_do_not_overwrite_each_other(users: TypedScope[User]) -> None:
    await users.set("ann", ANN)
    await asyncio.gather(*(users.patch("ann", **{name: value}) for name, value in (("age", 8), ("ratio", 0.5), ("name", "A"))))
    assert await users.get("ann") == User(name="A", age=8, ratio=0.5)


async def test_patch_repairs_a_field_of_another_type(state: StateManager, users: TypedScope[User]) -> None:
    await state.set("users", "ann", {"name": "Ann", "age": "7"})
    assert await users.patch("ann", age=7) == ANN


async def test_patch_of_a_value_that_stays_bad_raises_and_stands(state: StateManager, users: TypedScope[User]) -> None:
    await state.set("users", "ann", {"name": 5, "age": 7})
    assert (await mismatch(users.patch("ann", age=8))).field == "/name"
    assert await state.get("users", "ann") == {"name": 5, "age": 8}


async def test_patch_sets_fields_of_dataclasses_and_typed_dicts(state: StateManager) -> None:
    carts, flags = state.scope("carts", Cart), state.scope("flags", Flag)
    await carts.set("ann", Cart("ann"))
    assert await carts.patch("ann", items=["a"], total=Decimal("1.10")) == Cart("ann", ["a"], Decimal("1.10"))
    assert (await mismatch(carts.patch("ann", items="a"))).field == "/items"
    await flags.set("beta", {"enabled": True})
    since = datetime(2026, 1, 2, tzinfo=UTC)
    assert await flags.patch("beta", since=since) == {"enabled": True, "since": since}
    assert (await mismatch(flags.patch("beta", enabled=1))).field == "/enabled"


async def test_field_may_have_the_name_of_an_argument(state: StateManager) -> None:
    class Odd(BaseModel):
        key: str
        self: int = 0

    scope = state.scope("things", Odd)
    await scope.set("a", Odd(key="x"))
    assert await scope.patch("a", key="y", self=1) == Odd.model_validate({"key": "y", "self": 1})


def strip(text: str) -> str:
    return text.strip()


async def test_functions_of_an_annotation_run_in_patch(state: StateManager) -> None:
    class Tidy(BaseModel):
        name: Annotated[str, AfterValidator(strip)]

    scope = state.scope("things", Tidy)
    await scope.set("a", Tidy(name="x"))
    assert await scope.patch("a", name=" y ") == Tidy(name="y")
    assert await state.get("things", "a") == {"name": "y"}


class Span(BaseModel):
    first: int
    last: int

    @model_validator(mode="after")
    def check(self) -> Span:
        if self.last < self.first:
            raise ValueError("last is before first")
        return self


class Ordered(BaseModel):
    first: int
    last: int

    @field_validator("last")
    @classmethod
    def check(cls, last: int, info: ValidationInfo) -> int:
        if last < info.data["first"]:
            raise ValueError("last is before first")
        return last


@dataclass
class Posted:
    first: int
    last: int

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise ValueError("last is before first")


@pydantic_dataclass
class Decorated:
    first: int
    last: int

    @field_validator("last")
    @classmethod
    def check(cls, last: int, info: ValidationInfo) -> int:
        if last < info.data["first"]:
            raise ValueError("last is before first")
        return last


RULED = [Span, Ordered, Posted, Decorated]


@pytest.mark.parametrize("model", RULED)
async def test_patch_checks_rules_over_several_fields_with_the_stored_ones(state: StateManager, model: Any) -> None:
    scope = state.scope("spans", model)
    await state.set("spans", "a", {"first": 1, "last": 5, "more": 1.50})
    assert await scope.patch("a", last=7) == model(first=1, last=7)
    assert "last is before first" in str(await mismatch(scope.patch("a", last=0)))
    assert "last is before first" in str(await mismatch(scope.patch("a", first=8)))
    assert await scope.patch("a", first=8, last=9) == model(first=8, last=9)
    assert await state.get("spans", "a") == {"first": 8, "last": 9, "more": 1.5}
    with pytest.raises(KeyMissing, match="set"):
        await scope.patch("b", last=7)
    await state.set("spans", "a", [1])
    assert (await mismatch(scope.patch("a", last=7))).field == ""


async def test_patch_checks_rules_again_if_the_value_changes_meanwhile(
    state: StateManager, second: StateManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans = state.scope("spans", Span)
    await spans.set("a", Span(first=1, last=5))
    read = Schema.replace_members
    reads = 0

    def replace_late(schema: Any, document: Any, members: Any, subject: Any) -> Any:
        nonlocal reads
        reads += 1
        return read(schema, document, members, subject)

    async def entry(scope: str, key: str) -> Any:
        found = await second.entry(scope, key)
        if reads == 0:
            await second.set("spans", "a", {"first": 4, "last": 5})
        return found

    monkeypatch.setattr(Schema, "replace_members", replace_late)
    monkeypatch.setattr(state, "entry", entry)
    assert "last is before first" in str(await mismatch(spans.patch("a", last=3)))
    assert reads == 2
    assert await state.get("spans", "a") == {"first": 4, "last": 5}


async def test_patch_of_a_type_with_a_serializer_of_a_field_uses_it(state: StateManager) -> None:
    class Cents(BaseModel):
        price: int

        @field_validator("price", mode="before")
        @classmethod
        def read(cls, price: Any) -> Any:
            return int(price[:-1]) if isinstance(price, str) and price.endswith("c") else price

        @field_serializer("price")
        def write(self, price: int) -> str:
            return f"{price}c"

    scope = state.scope("prices", Cents)
    await scope.set("a", Cents(price=5))
    assert await state.get("prices", "a") == {"price": "5c"}
    assert await scope.patch("a", price=7) == Cents(price=7)
    assert await state.get("prices", "a") == {"price": "7c"}


async def test_root_model_has_values_and_no_fields(state: StateManager) -> None:
    class Tags(RootModel[list[str]]):
        pass

    scope = state.scope("tags", Tags)
    await scope.set("a", Tags(["x"]))
    assert await state.get("tags", "a") == ["x"]
    assert await scope.get("a") == Tags(["x"])
    assert "no fields" in str(await mismatch(scope.patch("a", root=["y"])))


# -- update and modify ------------------------------------------------------------------------------------------------


async def test_update_to_a_value_of_another_type_raises_and_stands(state: StateManager, users: TypedScope[User]) -> None:
    await users.set("ann", ANN)
    error = await mismatch(users.update("ann", [{"op": "replace", "path": "/age", "value": "8"}]))
    assert error.field == "/age"
    assert await state.get("users", "ann") == {**ANN.model_dump(), "age": "8"}


async def test_modify_is_compare_and_set(users: TypedScope[User], second: StateManager) -> None:
    await users.set("ann", ANN)
    others = second.scope("users", User)

    async def older(scope: TypedScope[User]) -> None:
        def function(user: User | None) -> User:
            assert user is not None
            return user.model_copy(update={"age": user.age + 1})

        await scope.modify("ann", function, attempts=100)

    await asyncio.gather(*(older(scope) for scope in (users, others) for _ in range(10)))
    assert await users.get("ann") == User(name="Ann", age=27)


async def test_modify_gets_none_for_a_missing_key_and_takes_async_functions(state: StateManager) -> None:
    carts = state.scope("carts", Cart)

    async def add(cart: Cart | None) -> Cart:
        await asyncio.sleep(0)
        return replace(cart or Cart("ann"), total=Decimal(1))

    assert await carts.modify("ann", add, ttl=60) == Cart("ann", total=Decimal(1))
    with pytest.raises(InvalidValue, match="returned None"):
        await carts.modify("ann", lambda _: None)  # type: ignore[arg-type,return-value]


# -- following --------------------------------------------------------------------------------------------------------


async def test_watch_shows_typed_values_and_goes_on_after_another_one(state: StateManager, users: TypedScope[User]) -> None:
    await users.set("ann", ANN)
    async with users.watch("ann", start="snapshot") as watch:
        items = aiter(watch)
        first = await anext(items)
        assert isinstance(first, Change)
        assert (first.value, first.old_value) == (ANN, None)
        assert isinstance(await anext(items), Synced)
        await state.set("users", "ann", 5)
        await users.set("ann", User(name="Ann", age=8))
        await users.delete("ann")
        bad, good, gone = [await anext(items) for _ in range(3)]
    assert isinstance(bad, Change)
    assert isinstance(good, Change)
    assert isinstance(gone, Change)
    assert bad.old_value == ANN
    with pytest.raises(SchemaMismatch) as raised:
        _ = bad.value
    assert (raised.value.scope, raised.value.key) == ("users", "ann")
    assert good.value == User(name="Ann", age=8)
    assert (gone.value, gone.old_value) == (None, User(name="Ann", age=8))


async def test_mirror_holds_typed_values(state: StateManager, users: TypedScope[User]) -> None:
    await users.set("ann", ANN)
    await state.set("users", "bad", 5)
    async with users.mirror() as mirror:
        assert mirror["ann"] == ANN
        assert mirror.get("carl") is None
        assert await mirror.read("ann") == ANN
        assert mirror["ann"] is not mirror["ann"], "each access gives a value of its own"
        with pytest.raises(SchemaMismatch) as raised:
            _ = mirror["bad"]
        assert (raised.value.scope, raised.value.key) == ("users", "bad")


# -- scopes and types -------------------------------------------------------------------------------------------------


def test_scope_of_the_global_manager_can_be_made_without_a_connection() -> None:
    scope = stateManager.scope("users", User)
    assert (scope.name, scope.model) == ("users", User)
    assert repr(scope) == "<TypedScope 'users' of User>"


async def test_scope_works_with_another_manager(state: StateManager, second: StateManager, users: TypedScope[User]) -> None:
    await users.set("ann", ANN)
    assert await stateManager.scope("users", User).using(second).get("ann") == ANN


async def test_copy_and_pickle_of_a_scope_work(users: TypedScope[User]) -> None:
    await users.set("ann", ANN)
    for other in (copy.copy(users), pickle.loads(pickle.dumps(users))):
        assert await other.get("ann") == ANN
        await other._untyped.close()


async def test_untyped_calls_of_the_same_manager_stay_untyped(state: StateManager, users: TypedScope[User]) -> None:
    await users.set("ann", ANN)
    assert await state.get("users", "ann") == ANN.model_dump()


class Late(BaseModel):
    later: Later


class Later(BaseModel):
    n: int


@dataclass
class Never:
    other: Missing  # type: ignore[name-defined]  # noqa: F821


@dataclass
class Foreign:
    lock: asyncio.Lock


@pytest.mark.parametrize("model", [int, list[int], Color, "User", 5, None, [1]], ids=str)
def test_other_types_are_rejected(state: StateManager, model: Any) -> None:
    with pytest.raises(StateError, match="takes a pydantic model, a dataclass or a TypedDict, not"):
        state.scope("things", model)


def test_type_with_a_field_that_pydantic_does_not_know_is_rejected(state: StateManager) -> None:
    with pytest.raises(StateError, match=r"cannot be made of Foreign: .*Lock"):
        state.scope("things", Foreign)


async def test_type_that_is_complete_later_works_then(state: StateManager) -> None:
    scope = state.scope("things", Late)
    await scope.set("a", Late(later=Later(n=1)))
    assert await scope.get("a") == Late(later=Later(n=1))


async def test_type_that_never_is_complete_is_rejected_when_it_is_used(state: StateManager) -> None:
    scope = state.scope("things", Never)
    await state.set("things", "a", {"other": 1})
    calls: list[Any] = [lambda: scope.get("a"), lambda: scope.set("a", Never(other=1)), lambda: scope.patch("a", other=1)]
    for call in calls:
        with pytest.raises(StateError, match="Never") as raised:
            await call()
        assert not isinstance(raised.value, SchemaMismatch)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="pydantic takes TypedDicts of typing")
def test_typed_dict_of_typing_is_rejected_with_what_to_do_before_python_3_12(state: StateManager) -> None:
    import typing

    model: Any = typing.TypedDict("model", {"a": int})
    with pytest.raises(StateError, match=r"typing_extensions\.TypedDict"):
        state.scope("things", model)


@pytest.mark.parametrize("name", ["", 5, "@motia/x", "x" * 10_000])
def test_name_that_is_none_is_rejected_at_once(state: StateManager, name: Any) -> None:
    with pytest.raises(InvalidName):
        state.scope(name, User)


async def test_validator_that_raises_something_else_is_a_mismatch(state: StateManager) -> None:
    class Broken(BaseModel):
        name: str

        @field_validator("name")
        @classmethod
        def check(cls, name: str) -> str:
            raise KeyError(name)

    await state.set("things", "a", {"name": "x"})
    assert "a validator raised KeyError('x')" in str(await mismatch(state.scope("things", Broken).get("a")))


def test_missing_pydantic_is_told_with_the_command_that_installs_it() -> None:
    program = """
import sys
sys.modules["pydantic"] = None
from dataclasses import dataclass
from motia_redis import stateManager
@dataclass
class Cart:
    n: int
try:
    stateManager.scope("carts", Cart)
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "StateError a typed scope of Cart needs pydantic: pip install 'motia-redis[typed]'\n"
