"""What Python values are stored as: the table of docs/state.md (G1)."""

from __future__ import annotations

import collections
import dataclasses
import enum
import re
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy
import orjson
import pytest

from motia_redis._store import codec, values
from motia_redis.errors import InvalidOperation, InvalidValue

if TYPE_CHECKING:
    import redis

    from motia_redis import StateManager


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Name(str):
    __slots__ = ()


class Number(int):
    pass


class Ratio(float):
    pass


class Point(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass
class User:
    name: str


NAMES: dict[str, Any] = {
    "Colour": Colour, "Level": Level, "Name": Name, "Number": Number, "Ratio": Ratio, "Point": Point, "User": User,
    "Counter": collections.Counter, "UTC": UTC, "date": date, "datetime": datetime, "time": time, "timedelta": timedelta,
    "UUID": UUID, "Decimal": Decimal, "Path": Path, "numpy": numpy, "orjson": orjson,
}  # fmt: skip


def model_class() -> Any:
    """Return a model of pydantic, if it is installed."""
    pydantic = pytest.importorskip("pydantic", reason="pydantic is not installed")
    return pydantic.create_model("Model", name=(str, ...), at=(date, ...))


def table() -> list[tuple[str, str, str]]:
    """Return value, stored JSON and result of each row of the table."""
    page = (Path(__file__).parent.parent.parent / "docs" / "state.md").read_text()
    rows = []
    for line in page.partition("| type | value | stored JSON |")[2].splitlines()[2:]:
        if not line.startswith("|"):
            break
        value, stored, result = (cell.strip() for cell in line.strip("|").split(" | ")[1:])
        rows.append((value.strip("`"), stored.strip("`"), result.strip("`")))
    return rows


TABLE = table()


def test_table_has_all_types() -> None:
    assert len(TABLE) == 30


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
async def test_value_is_stored_as_the_table_says(state: StateManager, raw: redis.Redis, row: tuple[str, str, str]) -> None:
    expression, stored, result = row
    names = NAMES | ({"Model": model_class()} if "Model" in expression else {})
    value = eval(expression, names)  # our own page
    if stored == "rejected":
        with pytest.raises(InvalidValue, match=re.escape(result)):
            await state.set("s", "k", value)
        with pytest.raises(InvalidValue, match=re.escape(result)):
            await state.update("s", "k", [{"op": "add", "path": "/a", "value": value}])
        with pytest.raises(InvalidValue, match=re.escape(result)):
            await state.enqueue("t", value)
        assert await state.get("s", "k") is None
        return
    assert await state.set("s", "k", value) is value
    text: Any = raw.hget((await state.connect()).state_keys(b"s", b"k").values, "k")
    assert text == stored.encode() + codec.CANONICAL_MARK
    assert await state.get("s", "k") == eval(result)  # our own page
    updated = await state.update("s", "u", [{"op": "add", "path": "/a", "value": value}])
    assert updated == {"a": eval(result)}  # our own page
    passed = await state.update("s", "u", [{"op": "test", "path": "/a", "value": value}])
    assert passed == updated


@pytest.mark.parametrize(
    "value",
    [
        datetime(2026, 1, 2, 3, 4, 5, 60, tzinfo=ZoneInfo("Europe/Berlin")),
        datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2026, 7, 1, tzinfo=timezone(timedelta(hours=-3.5))),
        date(33, 1, 1), time(1, 2, 3, 4), time(0), UUID(int=2**127), Level.HIGH, Colour.RED,
    ],
)  # fmt: skip
def test_form_is_that_of_orjson(value: Any) -> None:
    assert codec.encode(value, subject="", max_bytes=1000) == orjson.dumps(value)


def test_seconds_of_an_offset_are_kept() -> None:
    """orjson drops them."""
    value = datetime(1900, 1, 1, tzinfo=timezone(timedelta(seconds=1172)))
    assert datetime.fromisoformat(orjson.loads(codec.encode(value, subject="", max_bytes=1000))) == value


def test_fields_of_a_dataclass_are_all_stored() -> None:
    """orjson leaves out those that begin with an underscore."""

    @dataclasses.dataclass(slots=True)
    class Private:
        _id: int
        inner: User
        points: list[Point]

    text = codec.encode([Private(1, User("Ann"), [Point(1, 2)])], subject="", max_bytes=1000)
    assert text == b'[{"_id":1,"inner":{"name":"Ann"},"points":[[1,2]]}]'


@pytest.mark.parametrize("text", [b"1", b'{"x": [', b"NaN", b'{"b": 1, "a":2}', b'"{"'])
@pytest.mark.parametrize(
    "wrap", [lambda part: part, lambda part: {"a": part}, lambda part: {"t": date(2026, 1, 1), "b": [None, (part,)]}]
)
def test_raw_text_is_rejected_wherever_it_is(text: bytes, wrap: Any) -> None:
    with pytest.raises(InvalidValue, match=r"raw text in an orjson\.Fragment is no value"):
        codec.encode(wrap(orjson.Fragment(text)), subject="", max_bytes=1000)


def test_raw_text_in_an_enum_a_dataclass_or_a_name_is_rejected() -> None:
    class Raw(enum.Enum):
        TEXT = orjson.Fragment(b"[")

    for value in (Raw.TEXT, [Raw.TEXT], {"u": User(orjson.Fragment(b"["))}):  # type: ignore[arg-type]
        with pytest.raises(InvalidValue, match="raw text"):
            codec.encode(value, subject="", max_bytes=1000)


@pytest.mark.parametrize(
    "value",
    [
        numpy.longdouble("0.1"), numpy.datetime64("2026-01-02"), numpy.timedelta64(1, "s"), numpy.complex64(1),
        numpy.bytes_(b"x"), memoryview(b"x"), bytearray(b"x"), 1j, ..., User, range(3), iter([]), ValueError("x"), frozenset(),
        {"a": [None, numpy.float64("nan")]}, Ratio("inf"), Number(2**64), {Name("\ud800"): 1}, Name("\ud800"),
    ],
)  # fmt: skip
def test_value_without_a_lossless_form_is_rejected(value: Any) -> None:
    with pytest.raises(InvalidValue):
        codec.encode(value, subject="", max_bytes=1000)


def test_object_whose_repr_fails_is_rejected_with_its_place() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise ValueError("broken for a test")

        def __hash__(self) -> int:
            return 1

    with pytest.raises(InvalidValue, match="at '/a/0': Broken is not a JSON value: <Broken>"):
        codec.encode({"a": [Broken()]}, subject="", max_bytes=1000)
    with pytest.raises(InvalidValue, match="member name <Broken> is not a string"):
        codec.encode({Broken(): 1}, subject="", max_bytes=1000)


def test_two_names_of_one_text_are_rejected() -> None:
    class Other(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            return self is other

        def __hash__(self) -> int:
            return id(self)

    with pytest.raises(InvalidValue, match="at '/a': two member names are 'x'"):
        codec.encode({"a": {"x": 1, Other("x"): 2}}, subject="", max_bytes=1000)


def test_only_builtin_types_are_plain() -> None:
    builtin = {"a": [1, 1.5, None, True, "x", (2,)], "b": {}}
    assert values.plain_form(builtin) is not None
    for other in (
        Colour.RED,
        Name("x"),
        Number(1),
        Ratio(1),
        Point(1, 2),
        User("x"),
        orjson.Fragment(b"1"),
        UUID(int=1),
        date.max,
    ):
        assert values.plain_form([builtin, {"x": other}]) is None
    assert values.plain_form({Name("x"): 1}) is None


async def test_operations_take_enums_and_subclasses_of_text(state: StateManager) -> None:
    class Operation(enum.StrEnum):
        ADD = "add"
        SET = "set"

    class Field(str, enum.Enum):  # noqa: UP042  # what people wrote before StrEnum
        NAME = "name"
        PATH = "/path"

    ops: Any = [
        {"op": Operation.ADD, "path": Name("/q"), "value": 1},
        {"op": "add", "path": Field.PATH, "value": {"y": {Colour.RED: Point(1, 2)}}},
        {"type": Operation.SET, "path": Field.NAME, "value": Level.HIGH},
        {"type": "set", "path": [Field.NAME], "value": Colour.RED},
        {"op": "increment", "path": "/q", "value": numpy.int64(2)},
        {"op": "decrement", "path": "/q", "value": Level.HIGH},
        {"op": "merge", "path": "", "value": {Field.NAME: date(2026, 1, 2), "more": 1}},
    ]
    expected = {"q": 0, "path": {"y": {"red": [1, 2]}}, "name": "2026-01-02", "more": 1}
    assert await state.update("s", "u", ops) == expected
    for amount in (True, "1", Decimal(1), None, [1], {}):
        with pytest.raises(InvalidValue, match="`value` must be a number"):
            await state.update("s", "u", [{"op": "increment", "path": "/q", "value": amount}])
    with pytest.raises(InvalidOperation):
        await state.update("s", "u", [{"op": Colour.RED, "path": "/q"}])  # type: ignore[list-item]
