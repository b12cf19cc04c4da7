"""Schemas: what is accepted as one, and which places of a document do not match."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator
from typing_extensions import TypedDict

from motia_redis._steps.schemas import MOST_MISMATCHES, Mismatch, checker_of, schema_problem


class Item(BaseModel):
    model_config = ConfigDict(extra="forbid")

    sku: str
    count: int = Field(gt=0)


class Order(BaseModel):
    items: list[Item]
    due: date | None = None
    kind: Literal["a", "b"] = "a"


@dataclass
class Point:
    x: int
    y: int


class Named(TypedDict):
    name: str


class Pair(NamedTuple):
    one: int
    two: str


ORDER = {
    "type": "object",
    "properties": {
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"sku": {"type": "string"}, "count": {"type": "integer", "exclusiveMinimum": 0}},
                "required": ["sku", "count"],
                "additionalProperties": False,
            },
        },
        "due": {"type": ["string", "null"]},
    },
    "required": ["items"],
}


def check(schema: Any, document: Any) -> list[Mismatch]:
    return checker_of(schema).check_json(document, len(json.dumps(document)))


def places(schema: Any, document: Any) -> list[str]:
    return [mismatch.path for mismatch in check(schema, document)]


@pytest.mark.parametrize("schema", [Order, ORDER, Order.model_json_schema()], ids=["model", "JSON Schema", "of the model"])
@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"items": []}, []),
        ({"items": [{"sku": "a", "count": 1}], "due": "2026-01-31"}, []),
        ({"items": [{"sku": "a", "count": "1"}]}, ["/items/0/count"]),
        ({"items": [{"sku": "a", "count": 1}, {"sku": 1, "count": 0}]}, ["/items/1/count", "/items/1/sku"]),
        ({"items": {}}, ["/items"]),
        ([], [""]),
        (None, [""]),
    ],
)
def test_places_are_json_pointers_for_types_and_for_json_schemas(schema: Any, document: Any, expected: list[str]) -> None:
    assert sorted(places(schema, document)) == expected


def test_missing_member_is_named() -> None:
    assert places(Order, {"items": [{"sku": "a"}]}) == ["/items/0/count"]
    (mismatch,) = check(ORDER, {"items": [{"sku": "a"}]})
    assert mismatch == ("/items/0", '"count" is a required property')


def test_member_names_are_escaped_in_a_pointer() -> None:
    assert places(dict[str, int], {"a/b~c": "x"}) == ["/a~1b~0c"]
    assert places({"additionalProperties": {"type": "integer"}}, {"a/b~c": "x"}) == ["/a~1b~0c"]


@pytest.mark.parametrize(
    ("schema", "document", "matches"),
    [
        (Point, {"x": 1, "y": 2}, True),
        (Point, {"x": 1, "y": "2"}, False),
        (Named, {"name": "a"}, True),
        (Named, {"nam": "a"}, False),
        (Pair, [1, "a"], True),
        (list[int], [1, 2], True),
        (list[int], [1, 2.5], False),
        (int | None, None, True),
        (Annotated[int, Field(ge=3)], 2, False),
        (Any, {"any": 1}, True),
        (int, 2**80, True),
        ({"type": "integer"}, 2**80, True),
        ({"type": "integer", "maximum": 2**63}, 2**80, False),
        ({}, [{}], True),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "string"}]}, [1], False),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "format": "email"}, "x", False),
        ({"format": "email"}, "x", True),
        ({"$ref": "#/$defs/n", "$defs": {"n": {"type": "null"}}}, None, True),
    ],
)
def test_every_kind_of_schema_is_checked(schema: Any, document: Any, matches: bool) -> None:
    assert schema_problem(schema) is None
    assert (places(schema, document) == []) is matches


def test_form_is_checked_by_what_its_texts_mean_to_a_type() -> None:
    assert checker_of(Point).check_plain({"x": "1", "y": "2"}) == []
    assert [m.path for m in checker_of(Point).check_plain({"x": "one", "y": "2"})] == ["/x"]
    assert [m.path for m in checker_of(ORDER).check_plain({"items": "x"})] == ["/items"]


def test_bytes_match_no_json_schema() -> None:
    assert [m.message for m in checker_of({}).check_plain(b"x")] == ["bytes are no JSON value"]


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ("str", "must be a JSON Schema as a dict, a pydantic model, a dataclass or another type, not 'str'"),
        (5, "must be a JSON Schema as a dict"),
        (Point(1, 2), "must be a JSON Schema as a dict"),
        (print, "must be a JSON Schema as a dict"),
        (Item(sku="a", count=1), "must be a JSON Schema as a dict"),
        (lambda n: n, "must be a JSON Schema as a dict"),
        ([Order], "must be a JSON Schema as a dict"),
        ({"type": "objekt"}, "is no valid JSON Schema: at '/type': "),
        ({"properties": {"a": {"required": "a"}}}, "is no valid JSON Schema: at '/properties/a/required': "),
        ({"pattern": "("}, "is no valid JSON Schema: "),
        ({"$ref": "#/nowhere"}, "is no valid JSON Schema: "),
        ({"$schema": "urn:unknown"}, "is no valid JSON Schema: "),
        ({"const": object()}, "is no valid JSON Schema: "),
        ({1: 2}, "is no valid JSON Schema: "),
    ],
)
def test_what_is_no_schema_is_rejected_with_the_reason(schema: Any, says: str) -> None:
    problem = schema_problem(schema)
    assert problem is not None
    assert problem.startswith(says)


def test_schema_that_contains_itself_is_rejected() -> None:
    endless: dict[str, Any] = {}
    endless["not"] = endless
    assert str(schema_problem(endless)).startswith("is no valid JSON Schema: ")


@pytest.mark.skipif(
    not hasattr(TypeAdapter, "rebuild"), reason="before pydantic 2.10, the first document shows what is not defined"
)
def test_type_whose_parts_are_not_defined_is_rejected() -> None:
    class Incomplete(BaseModel):
        part: "Nowhere"  # type: ignore[name-defined]  # noqa: F821, UP037

    assert "must be a JSON Schema" in str(schema_problem(Incomplete))


def test_model_that_is_built_late_is_accepted() -> None:
    class Late(BaseModel):
        model_config = ConfigDict(defer_build=True)

        n: int

    assert places(Late, {"n": "1"}) == ["/n"]


@pytest.mark.parametrize("uri", ["http://127.0.0.1:{port}/s.json", "file:///etc/hostname", "other.json"])
def test_references_to_elsewhere_are_never_loaded(uri: str) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        problem = schema_problem({"$ref": uri.format(port=server.getsockname()[1])})
        with pytest.raises(TimeoutError):
            server.accept()
    assert str(problem).startswith("is no valid JSON Schema: Resource ")


# -- what a client sends, and costs -----------------------------------------------------------------------------------

SECRET = "hunter2" * 100


@pytest.mark.parametrize("schema", [list[int], {"items": {"type": "integer"}}])
@pytest.mark.parametrize("count", [1, 11, 50, 11_000])
def test_mismatches_are_few_and_hold_no_value(schema: Any, count: int) -> None:
    mismatches = check(schema, [SECRET] * count)
    assert 1 <= len(mismatches) <= MOST_MISMATCHES
    assert "hunter2" not in str(mismatches)


def test_what_a_validator_says_is_cut() -> None:
    class Talkative(BaseModel):
        password: str

        @field_validator("password")
        @classmethod
        def look(cls, password: str) -> str:
            raise ValueError(f"{password} is too long")

    ((path, message),) = check(Talkative, {"password": SECRET})
    assert path == "/password"
    assert len(message) <= 201


@pytest.mark.parametrize("schema", [Item, {"properties": {}, "additionalProperties": False}, dict[str, int]])
def test_long_member_names_are_cut(schema: Any) -> None:
    document = {"x" * 10_000: "y"}
    for mismatch in check(schema, document):
        assert len(mismatch.path) <= 201
        assert len(mismatch.message) <= 201


@pytest.mark.parametrize(
    ("schema", "document"),
    [
        (list[str], [1] * 300_000),
        ({"items": {"type": "string"}}, [1] * 300_000),
        ({"uniqueItems": True}, [[n] for n in range(100_000)] + [[1]]),
        ({"items": {"pattern": "^(a+)+$"}}, ["a" * 100_000 + "!"]),
    ],
    ids=["type", "JSON Schema", "unique", "pattern"],
)
def test_large_document_full_of_mismatches_is_reported_at_once(schema: Any, document: Any) -> None:
    checker, size = checker_of(schema), len(json.dumps(document))
    began = time.perf_counter()
    assert checker.check_json(document, size)
    assert time.perf_counter() - began < 1.0


@pytest.mark.parametrize(
    "schema", [{"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}, list[Any]], ids=["JSON Schema", "type"]
)
@pytest.mark.parametrize("depth", [100, 300, 1000, 5000])
def test_deeply_nested_document_raises_nothing(schema: Any, depth: int) -> None:
    document: list[Any] = []
    for _ in range(depth):
        document = [document]
    mismatches = checker_of(schema).check_json(document, depth)
    assert [m.path for m in mismatches] in ([], [""])
    assert mismatches or depth < 1000 or isinstance(schema, dict)


def test_error_of_a_validator_is_raised() -> None:
    class Failing(BaseModel):
        n: int

        @field_validator("n")
        @classmethod
        def look(cls, n: int) -> int:
            raise LookupError("away")

    with pytest.raises(LookupError):
        check(Failing, {"n": 1})


@pytest.mark.parametrize(
    ("library", "schema", "says"),
    [
        ("pydantic", "dict[str, int]", "pip install 'motia-redis[typed]'"),
        ("jsonschema_rs", "{}", "pip install 'motia-redis[jsonschema]'"),
    ],
)
def test_library_that_is_not_installed_is_named_with_its_extra(library: str, schema: str, says: str) -> None:
    program = (
        f"import sys; sys.modules[{library!r}] = None\n"
        "from motia_redis import http, step\nfrom motia_redis.errors import StepError\n"
        f"try:\n    step({{'name': 'S', 'triggers': [http('POST', '/', body_schema={schema})]}})\n"
        "except StepError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("step 'S': 'body_schema' of an http trigger ")
    assert says in done.stdout
