"""Codec: canonical JSON has no raw bracket and no escaped quote in its strings, and decodes to the same value."""

from __future__ import annotations

import enum
import json
import math
import re
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motia_redis._store import codec
from motia_redis.errors import InvalidValue

texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('{}[]"\\:,\t\0'))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=30,
)


def encode(value: Any) -> bytes:
    return codec.encode(value, subject="test", max_bytes=10**9)


@settings(max_examples=500)
@given(values)
def test_canonical_json_decodes_to_the_value_without_raw_brackets_or_quotes(value: Any) -> None:
    text = encode(value)
    assert orjson.dumps(orjson.loads(text + codec.CANONICAL_MARK)) == orjson.dumps(value)
    strings = text.split(b'"')[1::2]
    assert not any(re.search(rb"[{}\[\]]|\\\\", string) for string in strings)
    assert text.count(b'"') % 2 == 0
    assert not re.search(rb"\s", b"".join(text.split(b'"')[0::2]))


@given(texts)
def test_member_name_is_encoded_as_in_a_document(name: str) -> None:
    assert encode({name: 1}) == b"{" + codec.encode_name(name) + b":1}"


def test_python_types_without_json_form_are_converted() -> None:
    class Colour(enum.StrEnum):
        RED = "red"

    class Level(enum.Enum):
        HIGH = 3
        NONE = None

    class Number(enum.IntEnum):
        ONE = 1

    assert encode((1, Colour.RED, Level.HIGH, UUID(int=1))) == b'[1,"red",3,"00000000-0000-0000-0000-000000000001"]'
    assert encode([Level.NONE, 1.5, Number.ONE]) == b"[null,1.5,1]"


@settings(max_examples=300)
@given(st.recursive(st.none() | st.floats() | texts, lambda inner: st.lists(inner) | st.dictionaries(texts, inner)))
def test_nonfinite_numbers_are_rejected_at_any_depth(value: Any) -> None:
    with_numbers = json.dumps(value)
    if re.search("NaN|Infinity", re.sub('"([^"\\\\]|\\\\.)*"', "", with_numbers)):
        with pytest.raises(InvalidValue, match="is not a JSON number"):
            encode(value)
    else:
        assert orjson.loads(encode(value)) == json.loads(with_numbers)


def test_nonfinite_numbers_are_rejected_in_enums_and_tuples() -> None:
    class Level(enum.Enum):
        NONE = math.nan

    for value in ([None, Level.NONE], {"a": None, "b": (1, {"c": (-math.inf,)})}):
        with pytest.raises(InvalidValue):
            encode(value)


@pytest.mark.parametrize(("text", "spelled"), [('"', "\\u0022"), ("\\", "\\u005c"), ("[", "\\u005b"), ("\n", "\\n"), ("é", "é")])
def test_special_characters_have_one_encoding(text: str, spelled: str) -> None:
    assert encode(text).decode() == f'"{spelled}"'
