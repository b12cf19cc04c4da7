"""Values as JSON text: no number changes, and nothing can send commands to a terminal."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motia_redis._store.json_texts import TEXTS, compact, parse, quoted, scan_keys, scan_texts, with_texts
from motia_redis.errors import CorruptValue, InvalidValue, ValueTooLarge

if TYPE_CHECKING:
    import redis

    from motia_redis import StateManager

NUMBERS = '{"big":123456789012345678901234567890,"long":0.12345678901234567890123,"e":1E5,"zero":-0.0}'
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda parts: st.lists(parts) | st.dictionaries(st.text(), parts),
)


@given(JSON, st.booleans(), st.sampled_from([None, 2]))
def test_compact_text_has_the_same_value_on_one_printable_line(value: object, ascii_only: bool, indent: int | None) -> None:
    text = compact(json.dumps(value, ensure_ascii=ascii_only, indent=indent))
    assert json.loads(text) == value
    assert not set(text) & {"\n", "\x1b", "\x7f", "\x9b", "\u202e"}


def test_spelling_of_what_a_terminal_may_obey_is_an_escape() -> None:
    assert compact('"\\u001b[2J\u009b\u202e\x7f \u3000ü🙂\\/\\u007b"') == '"\\u001b[2J\\u009b\\u202e\\u007f \u3000ü🙂/{"'
    assert quoted('a"\x1b\udcff') == '"a\\"\\u001b\\udcff"'


async def test_numbers_and_brackets_in_strings_are_stored_and_read_as_they_were_written(state: StateManager) -> None:
    texts = with_texts(state)
    await texts.set("scope", "key", f' {{ "numbers" : {NUMBERS},\n"text": "}}]\\"" }} ')
    assert await texts.get("scope", "key") == f'{{"numbers":{NUMBERS},"text":"}}]\\""}}'
    assert (await state.get("scope", "key"))["text"] == '}]"'
    ops = [{"op": "add", "path": "/numbers/n", "value": 1}, {"op": "remove", "path": "/text"}]
    assert await texts.update("scope", "key", ops) == f'{{"numbers":{NUMBERS[:-1]},"n":1}}}}'  # type: ignore[arg-type]
    assert await texts.delete("scope", "key") == f'{{"numbers":{NUMBERS[:-1]},"n":1}}}}'


@pytest.mark.parametrize(
    "text", ["", "a", "{", "[1,]", "NaN", '{"a":1,"a":2}', '"\\ud800"', "1e999", "[" * 2000 + "]" * 2000, "1 2"]
)
def test_text_that_is_not_json_is_rejected(text: str) -> None:
    with pytest.raises(InvalidValue, match="subject: "):
        TEXTS.encode(text, subject="subject", max_bytes=1000)


def test_depth_and_size_have_the_limits_of_other_values() -> None:
    with pytest.raises(InvalidValue, match="levels deep"):
        TEXTS.encode("[" * 300 + "]" * 300, subject="subject", max_bytes=1000)
    with pytest.raises(ValueTooLarge, match="1001 bytes of JSON, the limit is 1000"):
        TEXTS.encode(f'"{"a" * 999}"', subject="subject", max_bytes=1000)


def test_member_that_comes_twice_is_named() -> None:
    with pytest.raises(ValueError, match="two members are named 'a'"):
        parse('{"b":{"a":1,"a":2}}')


async def test_scans_skip_other_keys_and_what_has_expired_and_go_on_after_what_is_not_json(
    state: StateManager, raw: redis.Redis
) -> None:
    await state.set_many("scope", {"a1": 1, "a2": 2, "b1": 3})
    await state.set("scope", "a3", 3, ttl=0.001)
    await asyncio.sleep(0.15)  # readers show no value more than 0.1 s past its time
    values = (await state.connect()).values(b"scope")
    raw.hset(values.decode(), mapping={"a4": "{", b"a\xff": "1"})
    found = {key: text async for key, text in scan_texts(state, "scope", "a")}
    error = found.pop("a4")
    assert isinstance(error, CorruptValue)
    assert found == {"a1": "1", "a2": "2", "a\udcff": "1"}
    assert {key async for key in scan_keys(state, "scope", "a")} == {"a1", "a2", "a4", "a\udcff"}
