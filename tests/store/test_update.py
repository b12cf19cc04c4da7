"""Updates: every operation in both dialects, lenient and strict, lossless and all or nothing."""

from __future__ import annotations

import json
from functools import reduce
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis._store import codec
from motia_redis._store.keyspace import Keyspace, Layout
from motia_redis.errors import (
    BadIndex,
    KeyMissing,
    NumberOverflow,
    PathMissing,
    StateError,
    TestFailed,
    TooDeep,
    TooMuchWork,
    WrongKind,
)

if TYPE_CHECKING:
    import redis

    from motia_redis import StateManager


pytestmark = pytest.mark.usefixtures("each_way")


def op(name: str, path: str, *value: Any) -> dict[str, Any]:
    """Return a JSON Patch operation."""
    return {"op": name, "path": path} | ({"value": value[0]} if value else {})


def motia(name: str, *path: Any, **fields: Any) -> dict[str, Any]:
    """Return an operation of Motia's dialect."""
    return {"type": name} | ({"path": path[0]} if path else {}) | fields


@pytest.mark.parametrize(
    ("before", "operation", "after"),
    [
        ({"a": 1}, op("add", "/b", 2), {"a": 1, "b": 2}),
        ({"a": 1}, op("add", "/a", 2), {"a": 2}),
        ({"l": [1, 3]}, op("add", "/l/1", 2), {"l": [1, 2, 3]}),
        ({"l": []}, op("add", "/l/-", {}), {"l": [{}]}),
        ({"l": [1]}, op("add", "/l/1", 2), {"l": [1, 2]}),
        ({"a": 1}, op("add", "", [1]), [1]),
        ({"a": 1, "b": 2}, op("remove", "/a"), {"b": 2}),
        ({"a": 1, "b": 2}, op("remove", "/b"), {"a": 1}),
        ({"a": 1}, op("remove", "/a"), {}),
        ({"a": 1}, op("remove", "/missing"), {"a": 1}),
        ({"l": [1, 2, 3]}, op("remove", "/l/2"), {"l": [1, 2]}),
        ({"a": 1}, op("replace", "/a", [[]]), {"a": [[]]}),
        ({"a": 1}, op("replace", "/missing", None), {"a": 1, "missing": None}),
        ({"l": [1, 2]}, op("replace", "/l/0", "x"), {"l": ["x", 2]}),
        ({"a": 1, "b": 2}, {"op": "move", "from": "/a", "path": "/c"}, {"b": 2, "c": 1}),
        ({"l": [1, 2, 3]}, {"op": "move", "from": "/l/0", "path": "/l/-"}, {"l": [2, 3, 1]}),
        # Long values that are put deeper: their depth is looked for. These have no bracket at all, or none behind some byte.
        ({"a": "x" * 2100, "b": {}}, {"op": "move", "from": "/a", "path": "/b/c"}, {"b": {"c": "x" * 2100}}),
        ({"a": ["x" * 2100], "b": {}}, {"op": "move", "from": "/a", "path": "/b/c"}, {"b": {"c": ["x" * 2100]}}),
        ({"a": 1, "b": 2}, {"op": "move", "from": "/a", "path": "/a"}, {"a": 1, "b": 2}),
        ({"a": {"x": []}}, {"op": "copy", "from": "/a", "path": "/b"}, {"a": {"x": []}, "b": {"x": []}}),
        ({"a": {"x": [1, 2.0], "y": None}}, op("test", "/a", {"y": None, "x": [1.0, 2]}), {"a": {"x": [1, 2.0], "y": None}}),
        ({"n": 1}, op("increment", "/n", 41), {"n": 42}),
        ({}, op("increment", "/n", 5), {"n": 5}),
        ({"n": 0.1}, op("increment", "/n", 0.2), {"n": 0.1 + 0.2}),
        ({"n": 3.0}, op("increment", "/n", 1), {"n": 4.0}),
        ({"n": 2**53}, op("increment", "/n", 1), {"n": 2**53 + 1}),
        ({"n": 2**64 - 2}, op("increment", "/n", 1), {"n": 2**64 - 1}),
        ({"n": -(2**63)}, op("increment", "/n", 2**63), {"n": 0}),
        ({"n": 1}, op("decrement", "/n", 2), {"n": -1}),
        ({"n": 1}, op("decrement", "/n", -2.5), {"n": 3.5}),
        ({"l": [1]}, op("append", "/l", [2]), {"l": [1, [2]]}),
        ({"t": "a"}, op("append", "/t", 'b"{'), {"t": 'ab"{'}),
        ({}, op("append", "/l", 1), {"l": [1]}),
        ({"m": {"a": 1, "b": 2}}, op("merge", "/m", {"b": {}, "c": 3}), {"m": {"a": 1, "b": {}, "c": 3}}),
        ({"a": 1}, op("merge", "", {"a": 2, "b": []}), {"a": 2, "b": []}),
        ({}, op("merge", "/m", {"a": 1}), {"m": {"a": 1}}),
        ({'"': 1}, op("replace", '/"', 2), {'"': 2}),
        ({"a/b": {"m~n": 1}}, op("replace", "/a~1b/m~0n", 2), {"a/b": {"m~n": 2}}),
        ({"": {"": 1}}, op("replace", "//", 2), {"": {"": 2}}),
        ({",": 1, '","a': 2}, op("replace", "/,", 3), {",": 3, '","a': 2}),
        (["a,", ":", {",": 1}], op("increment", "/2/,", 1), ["a,", ":", {",": 2}]),
        ({"a": 1}, motia("set", "b", value=[]), {"a": 1, "b": []}),
        ({"a": 1}, motia("set", "a/b", value=1), {"a": 1, "a/b": 1}),
        ({"a": 1}, motia("set", "", value=[]), []),
        ({"a": {"b": 1}}, motia("set", ["a", "b"], value=2), {"a": {"b": 2}}),
        ({"a": 1}, motia("merge", value={"b": 2}), {"a": 1, "b": 2}),
        ({"a": {"x": 1}}, motia("merge", "a", value={"y": 2}), {"a": {"x": 1, "y": 2}}),
        ({"n": 1}, motia("increment", "n", by=2), {"n": 3}),
        ({"n": 1}, motia("increment", "n", value=2), {"n": 3}),
        ({"n": 1}, motia("decrement", "n", by=2), {"n": -1}),
        ({"l": []}, motia("append", "l", value=1), {"l": [1]}),
        ([1], motia("append", value=2), [1, 2]),
        ({"a": 1, "b": 2}, motia("remove", "a"), {"b": 2}),
    ],
)
async def test_operation_returns_the_expected_value(state: StateManager, before: Any, operation: Any, after: Any) -> None:
    await state.set("docs", "doc", before)
    assert repr(await state.update("docs", "doc", [operation])) == repr(after)
    assert repr(await state.get("docs", "doc")) == repr(after)


@pytest.mark.parametrize(
    ("before", "operation", "error"),
    [
        ({}, op("add", "/a/b", 1), PathMissing),
        ({"a": 1}, op("add", "/a/b", 1), PathMissing),
        ({}, op("remove", "/a/b"), PathMissing),
        ({}, op("increment", "/a/b", 1), PathMissing),
        ({}, op("test", "/a", 1), PathMissing),
        ({}, {"op": "move", "from": "/a", "path": "/b"}, PathMissing),
        ({}, {"op": "copy", "from": "/a", "path": "/b"}, PathMissing),
        ({"l": [1]}, op("add", "/l/2", 1), BadIndex),
        ({"l": [1]}, op("add", "/l/01", 1), BadIndex),
        ({"l": [1]}, op("add", "/l/-1", 1), BadIndex),
        ({"l": [1]}, op("add", "/l/x", 1), BadIndex),
        ({"l": [1]}, op("add", "/l/1e0", 1), BadIndex),
        ({"l": [1]}, op("replace", "/l/1", 1), BadIndex),
        ({"l": [1]}, op("replace", "/l/-", 1), BadIndex),
        ({"l": [1]}, op("remove", "/l/1"), BadIndex),
        ({"l": [1]}, op("remove", "/l/-"), BadIndex),
        ({"l": [1]}, op("increment", "/l/3", 1), BadIndex),
        ({"n": "1"}, op("increment", "/n", 1), WrongKind),
        ({"n": None}, op("increment", "/n", 1), WrongKind),
        ({"n": True}, op("increment", "/n", 1), WrongKind),
        ({"n": [1]}, op("decrement", "/n", 1), WrongKind),
        ({"n": 1}, op("append", "/n", 1), WrongKind),
        ({"t": "a"}, op("append", "/t", 1), WrongKind),
        ({"n": 1}, op("merge", "/n", {"a": 1}), WrongKind),
        ({"n": 2**64 - 1}, op("increment", "/n", 1), NumberOverflow),
        ({"n": -(2**63)}, op("decrement", "/n", 1), NumberOverflow),
        ({"n": 1.7e308}, op("increment", "/n", 1.7e308), NumberOverflow),
        ({"a": 1}, op("test", "/a", 2), TestFailed),
        ({"a": 9007199254740993}, op("test", "/a", 9007199254740992), TestFailed),
        ({"a": []}, op("test", "/a", {}), TestFailed),
        ({"a": True}, op("test", "/a", 1), TestFailed),
    ],
)
async def test_failing_operation_changes_nothing(
    state: StateManager, raw: redis.Redis, namespace: str, before: Any, operation: Any, error: type[StateError]
) -> None:
    """G2: no other operation of the update is applied. Value, revision and stream do not change."""
    await state.set("docs", "doc", {"doc": before, "first": []})
    keys = Keyspace(namespace, Layout()).state_keys(b"docs", b"doc")
    was = (await state.entry("docs", "doc"), raw.hget(keys.values, "doc"), raw.xlen(keys.events))
    moved = operation | {name: "/doc" + operation[name] for name in ("path", "from") if name in operation}
    with pytest.raises(error, match=r"scope 'docs' key 'doc': operation 1"):
        await state.update("docs", "doc", [op("add", "/first/-", 1), moved, op("add", "/last", 1)])
    assert (await state.entry("docs", "doc"), raw.hget(keys.values, "doc"), raw.xlen(keys.events)) == was


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        (op("replace", "/missing", 1), PathMissing),
        (op("remove", "/missing"), PathMissing),
        (op("increment", "/missing", 1), PathMissing),
        (op("append", "/missing", 1), PathMissing),
        (op("merge", "/missing", {}), PathMissing),
        (op("replace", "/l/0", 1), BadIndex),
    ],
)
async def test_strict_rejects_missing_paths_that_lenient_creates(
    state: StateManager, operation: Any, error: type[StateError]
) -> None:
    await state.set("docs", "doc", {"l": []})
    with pytest.raises(error):
        await state.update("docs", "doc", [operation], strict=True)
    assert await state.get("docs", "doc") == {"l": []}


async def test_a_missing_key_starts_from_an_empty_object_unless_strict(state: StateManager) -> None:
    assert await state.update("docs", "new", [op("increment", "/n", 1)]) == {"n": 1}
    with pytest.raises(KeyMissing):
        await state.update("docs", "other", [op("add", "/n", 1)], strict=True)
    assert await state.get("docs", "other") is None


async def test_update_that_touches_nothing_has_no_event(state: StateManager) -> None:
    await state.set("docs", "doc", {"a": 1})
    before = await state.entry("docs", "doc")
    assert await state.update("docs", "doc", [op("test", "/a", 1), op("remove", "/missing")]) == {"a": 1}
    assert await state.update("docs", "doc", []) == {"a": 1}
    assert await state.entry("docs", "doc") == before


# -- lossless ------------------------------------------------------------------------------------------------------------

PRECIOUS = (
    '{"tags":[],"empty":{},"big":9007199254740993,"id":12345678901234567,"most":18446744073709551615,"f":0.30000000000000004,'
    '"e":1e-7,"z":{"b":1,"a":2},"n":0,"t":"é\\u0000\\n"}'
)


async def test_untouched_bytes_never_change(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    """G1: `[]` stays `[]`, and every digit and the order of members are kept."""
    values = Keyspace(namespace, Layout()).values(b"docs")
    for text in (PRECIOUS.encode() + codec.CANONICAL_MARK, PRECIOUS.encode(), PRECIOUS.replace(",", " ,\n ").encode()):
        raw.hset(values, "doc", text)
        await state.update("docs", "doc", [op("increment", "/n", 1)])
        assert raw.hget(values, "doc") == text.replace(b'"n":0', b'"n":1')


async def test_values_of_set_keep_every_digit(state: StateManager) -> None:
    value = {"big": 9007199254740993, "id": 12345678901234567, "f": 0.30000000000000004, "tags": [], "o": {}}
    await state.set("docs", "doc", value)
    updated = await state.update("docs", "doc", [op("add", "/more", 1)])
    assert repr(updated) == repr(value | {"more": 1})


@pytest.mark.parametrize(
    "text",
    [
        '{"a":<n>}',
        ' {\t"a" :\r\n <n> } ',
        '{"\\u0061":<n>}',
        '{"b":[{"a":7}],"a":<n>,"c":"\\"a\\":9 {[\\\\"}',
        '{"c":"\\ud83d\\ude00 \\/","a":<n>}',
        '{"c":"\\\\","x":"\\\\\\"","a":<n>,"a2":"}"}',
    ],
)
async def test_noncanonical_json_is_updated_in_place(state: StateManager, raw: redis.Redis, namespace: str, text: str) -> None:
    values = Keyspace(namespace, Layout()).values(b"docs")
    raw.hset(values, "doc", text.replace("<n>", "41"))
    assert (await state.update("docs", "doc", [op("increment", "/a", 1)]))["a"] == 42
    assert raw.hget(values, "doc") == text.replace("<n>", "42").encode()


@pytest.mark.parametrize(
    "text",
    [
        b"", b" ", b"{", b'{"a":1', b'{"a":1}}', b'{"a":01}', b'{"a":1,}', b"{'a':1}", b'{"a":NaN}',
        b'\xef\xbb\xbf{"a":1}', b'{"a":"\xff"}',
        b'{"a":"\\ud800"}', b'{"a":"\\x"}', b'{"a":"\n"}', b'{"a":1 "b":2}', b'{"a" 1}', b'{"a":tru}', b'[1 2]', b'{"a":1,"a":2}',
        b"[" * 2000 + b"]" * 2000, b'{"a":-}', b'{"a":1.}', b'{"a":1e}', b'{"a":+1}', b'{a:1}',
    ],
)  # fmt: skip
async def test_broken_noncanonical_json_is_rejected_and_stays(
    state: StateManager, raw: redis.Redis, namespace: str, text: bytes
) -> None:
    values = Keyspace(namespace, Layout()).values(b"docs")
    raw.hset(values, "doc", text)
    with pytest.raises(StateError, match="scope 'docs' key 'doc'"):
        await state.update("docs", "doc", [op("increment", "/a", 1)])
    assert raw.hget(values, "doc") == text


async def test_brackets_in_strings_of_noncanonical_json_do_not_hide_the_depth(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    value = {"p": "]" * 2000, "q": "deep"}
    text = json.dumps({"a": value, "b": reduce(lambda inner, _: {"c": inner}, range(30), {})})
    text = text.replace('"deep"', "[" * 980 + "]" * 980)
    raw.hset(Keyspace(namespace, Layout()).values(b"docs"), "doc", text)
    with pytest.raises(TooDeep):
        await state.update("docs", "doc", [{"op": "copy", "from": "/a", "path": "/b" + "/c" * 30 + "/x"}])
    await state.update("docs", "doc", [{"op": "copy", "from": "/a", "path": "/b/x"}])


async def test_operations_that_block_redis_for_too_long_are_rejected(state: StateManager) -> None:
    await state.set("docs", "doc", {"text": "x" * 2_000_000, "n": 0})
    with pytest.raises(TooMuchWork, match="would block Redis for too long"):
        await state.update("docs", "doc", [op("increment", "/n", 1)] * 100)
    assert (await state.get("docs", "doc"))["n"] == 0


@pytest.mark.parametrize("name", ["values", "revisions", "scopes", "events"])
async def test_wrong_redis_type_of_one_key_changes_nothing(
    state: StateManager, raw: redis.Redis, namespace: str, name: str
) -> None:
    """G3: Redis does not roll scripts back, so the script undoes its writes before the failing one."""
    keys = Keyspace(namespace, Layout()).state_keys(b"docs", b"doc")
    raw.set(getattr(keys, name), "not ours")

    def everything() -> Any:
        others = {key for key in raw.scan_iter(f"{{{namespace}:*") if raw.type(key) != b"string"}
        return {
            key: raw.xlen(key) if raw.type(key) == b"stream" else raw.hgetall(key) for key in others if raw.type(key) != b"set"
        }

    for _ in range(2):
        with pytest.raises(StateError):
            await state.set("docs", "doc", 1)
        with pytest.raises(StateError):
            await state.update("docs", "doc", [op("add", "/a", 1)])
        assert all(not content for content in everything().values())
    assert await state.get("docs", "doc") is None if name != "values" else True


async def test_decrement_by_zero_keeps_the_sign_of_zero(state: StateManager) -> None:
    await state.set("users", "ann", {"float": -0.0, "integer": 0})
    ops = [{"op": "decrement", "path": f"/{name}", "value": 0} for name in ("float", "integer", "new")]
    await state.update("users", "ann", ops)  # type: ignore[arg-type]
    assert repr(await state.get("users", "ann")) == "{'float': -0.0, 'integer': 0, 'new': 0}"
