"""Exports and imports of values: lossless, resumable, with events that triggers skip."""

from __future__ import annotations

import asyncio
import io
import json
import random
import time
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import Limits, StateManager
from motia_redis import state as state_trigger
from motia_redis._admin import value_lines
from motia_redis._admin.value_lines import Refusal, decode_line, encode_value
from motia_redis._store import codec, expiry
from motia_redis._store.moving import StoredValue
from motia_redis._store.stream_groups import StreamGroup
from motia_redis.admin import Imported, RefusedLine, export_values, import_values
from motia_redis.errors import StateError, StateUnavailable
from tests.fuzzing.cases import draw_case
from tests.fuzzing.times import NOW
from tests.support.servers import PACKAGED, RedisServer, packaged
from tests.support.workers import Recorder, record, working

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    import redis

LATER = 4_000_000_000_000  # Unix milliseconds


@pytest.fixture
async def target(server: RedisServer, namespace: str) -> AsyncIterator[StateManager]:
    """Another namespace."""
    async with StateManager(server.url, namespace=f"{namespace}-target") as manager:
        yield manager


async def exported(state: StateManager, scopes: Sequence[str] | None = None) -> list[bytes]:
    parts: list[bytes] = []
    await export_values(state, parts.append, scopes=scopes)
    return list(io.BytesIO(b"".join(parts)))


async def revisions_of(state: StateManager) -> dict[str, str]:
    entries = {key: await state.entry("s", key) for key in await state.keys("s")}
    return {key: entry.revision for key, entry in entries.items() if entry is not None}


async def imported(state: StateManager, lines: Sequence[bytes], existing: Any = "keep", **options: Any) -> Imported:
    return await import_values(state, lines, existing=existing, **options)


def stored(raw: redis.Redis, namespace: str) -> dict[tuple[bytes, bytes], bytes]:
    """Return all stored texts by scope and key."""
    found = {}
    for name in raw.scan_iter(f"{{{namespace}:*}}:state:*"):
        for key, text in raw.hgetall(name).items():
            found[name.partition(b"}:state:")[2], key] = text
    return found


def put(raw: redis.Redis, state: StateManager, namespace: str, scope: bytes, values: dict[bytes, bytes]) -> None:
    """Store texts as they are, as another client does."""
    partition = codec_partition(scope)
    raw.hset(f"{{{namespace}:{partition}}}:state:".encode() + scope, mapping=values)  # type: ignore[arg-type]
    raw.sadd(f"{{{namespace}:{partition}}}:scopes", scope)


def codec_partition(scope: bytes) -> int:
    from motia_redis import Layout
    from motia_redis._store.keyspace import Keyspace

    return Keyspace("any", Layout()).partition(scope)


def fuzzed(seed: int, count: int) -> dict[bytes, bytes]:
    rnd = random.Random(seed)
    found: dict[bytes, bytes] = {}
    while len(found) < count:
        text = draw_case(rnd)[0].text
        at = None if text is None else expiry.expires_at(text)
        if text is not None and (at is None or at * 1000 > NOW + 10**12):
            found[b"%d" % len(found)] = text
    return found


@pytest.mark.parametrize("seed", range(3))
def test_lines_carry_every_stored_text_of_the_fuzzer(seed: int) -> None:
    forms = set()
    for text in fuzzed(seed, 1000).values():
        line = encode_value(b'"s"', b"k", text)
        assert line.count(b"\n") == 1
        assert decode_line(line, Limits()) == StoredValue(b"s", b"k", text), line
        forms.add((text.endswith(codec.CANONICAL_MARK), expiry.expires_at(text) is not None, b'"bytes":' in line))
    assert forms >= {(True, False, False), (True, True, False), (False, False, False), (False, False, True), (False, True, False)}


@pytest.mark.parametrize("program", PACKAGED)
async def test_round_trip_keeps_all_bytes_and_times(program: str, tmp_path: Path) -> None:
    import redis

    values = fuzzed(7, 400)
    with RedisServer(tmp_path, program=packaged(program)) as server, redis.Redis.from_url(server.url) as raw:
        async with StateManager(server.url, namespace="a") as source, StateManager(server.url, namespace="b") as target:
            put(raw, source, "a", b"fuzz", values)
            names = ["x", "ä/ö", "{tag}/a", "a\nb", 'a,"value":1', "\x00", " ", "\u2028", "n" * 4000]
            for name in names:
                await source.set(name, name, {name: 1.5}, ttl=1000)
            await source.set(StreamGroup("chat", "room/1"), "item", {"text": "hi"})
            lines = await exported(source)
            done = await imported(target, lines)
            count = len(values) + len(names) + 1
            assert (done.created, done.refused, done.problem) == (count, 0, None)
            assert stored(raw, "a") == stored(raw, "b")
            assert json.loads(lines[-1])["values"] == count
            assert sorted(await target.list_groups()) == sorted(["fuzz", *names])
            due = sum(raw.zcard(name) for name in raw.scan_iter("{b:*}:due"))
            assert due == sum(expiry.expires_at(text) is not None for text in values.values()) + len(names)
            entry = await target.entry("x", "x")
            assert entry is not None
            assert await target.set("x", "x", 2, if_revision=entry.revision) == 2


async def test_import_again_changes_nothing(state: StateManager, target: StateManager, raw: redis.Redis) -> None:
    await state.set_many("s", {str(number): number for number in range(50)})
    lines = await exported(state)
    await imported(target, lines[:30])  # interrupted
    first = await revisions_of(target)
    done = await imported(target, lines)
    assert (done.created, done.same, done.problem) == (21, 29, None)
    revisions = await revisions_of(target)
    assert first.items() <= revisions.items()
    again = await imported(target, lines, "overwrite")
    assert (again.created, again.overwritten, again.same) == (0, 0, 50)
    assert await revisions_of(target) == revisions


async def test_import_begins_with_a_line(state: StateManager, target: StateManager) -> None:
    await state.set_many("s", {str(number): number for number in range(10)})
    lines = await exported(state)
    done = await imported(target, lines, first_line=8)
    assert (done.created, done.problem) == (4, None)


async def test_other_values_are_kept_or_overwritten(state: StateManager, target: StateManager) -> None:
    await state.set_many("s", {"a": 1, "b": 2, "c": 3})
    await target.set("s", "a", "other")
    await target.set("s", "b", 2)
    lines = await exported(state)
    done = await imported(target, lines)
    assert (done.created, done.kept, done.same) == (1, 1, 1)
    assert sorted(map(str, await target.list("s"))) == ["2", "3", "other"]
    async with target.watch("s") as watch:
        done = await imported(target, lines, "overwrite")
        change = await anext(watch)
    assert (done.overwritten, done.same) == (1, 2)
    assert (change.type, change.old_value, change.value) == ("state:updated", "other", 1)  # type: ignore[union-attr]


async def test_dry_run_says_what_would_be_stored(state: StateManager, target: StateManager, raw: redis.Redis) -> None:
    await state.set_many("s", {"a": 1, "b": 2, "c": 3})
    await target.set("s", "a", "other")
    before = {name: raw.type(name) for name in raw.scan_iter(f"*{target.namespace}*")}
    lines = [*(await exported(state))]
    lines[2:2] = [b"nonsense\n"]
    done = await imported(target, lines, "overwrite", dry_run=True)
    assert (done.created, done.overwritten, done.refused) == (2, 1, 1)
    assert before == {name: raw.type(name) for name in raw.scan_iter(f"*{target.namespace}*")}
    assert await target.list("s") == ["other"]


async def test_expired_values_are_left_out(state: StateManager, target: StateManager) -> None:
    past, future = time.time() - 10, time.time() + 1000
    lines = [
        value_lines.first_line("n", None),
        b'{"scope":"s","key":"past","expires_at":%f,"value":1}\n' % past,
        b'{"scope":"s","key":"future","expires_at":%.3f,"value":1}\n' % future,
        value_lines.last_line(2, ""),
    ]
    done = await imported(target, lines)
    assert (done.created, done.expired, done.problem) == (1, 1, None)
    entry = await target.entry("s", "future")
    assert entry is not None
    assert entry.expires_at == round(future, 3)


async def test_value_whose_time_has_run_out_expires_before_it_is_replaced(target: StateManager, namespace: str) -> None:
    await target.set("s", "k", "old", ttl=0.05)
    await asyncio.sleep(0.06)
    lines = [value_lines.first_line("n", None), b'{"scope":"s","key":"k","value":1}\n', value_lines.last_line(1, "")]
    async with target.watch("s") as watch:
        done = await imported(target, lines)
        changes = [await anext(watch), await anext(watch)]
    assert done.created == 1
    assert [(change.type, change.reason) for change in changes] == [  # type: ignore[union-attr]
        ("state:deleted", "expired"),
        ("state:created", None),
    ]


def bad_lines() -> Iterator[tuple[bytes, str]]:
    yield b"", "not JSON"
    yield b'{"scope":"s","key":"k","value":[1,2', "no end"
    yield b'{"scope":"s","key":"k","value":[1,2}', "the value is not JSON"
    yield b'{"scope":"s","key":"k","value":NaN}', "the value is not JSON"
    yield b'{"scope":"s","key":"k","value":1,"x":2}', "the value is not JSON"
    yield b'{"scope":"s","key":"k","value": }', "the value is not JSON"
    yield b'{"scope":"s","key":"k"}', "neither 'value' nor 'bytes'"
    yield b'{"key":"k","value":1}', "no 'scope'"
    yield b'{"scope":"s","value":1}', "no 'key'"
    yield b'{"scope":1,"key":"k","value":1}', "the scope must be text"
    yield b'{"scope":"","key":"k","value":1}', "must not be empty"
    yield b'{"scope":"@motia/x","key":"k","value":1}', "reserved"
    yield b'{"scope":"%b","key":"k","value":1}' % (b"s" * 5000), "the limit is"
    yield b'{"scope":"s","key":"k","expires_at":"soon","value":1}', "expires_at must be"
    yield b'{"scope":"s","key":"k","expires_at":1e300,"value":1}', "expires_at must be"
    yield b'{"scope":"s","key":"k","expires_at":true,"value":1}', "expires_at must be"
    yield b'{"scope":"s","key":"k","bytes":"?"}', "not base64"
    yield b'{"scope":"s","key":"k","bytes":1}', "not base64"
    yield b'{"scope":"s","key":"k","bytes":"MQkNCQ=="}', "white space"  # it claims to be canonical
    yield b'{"scope":"s","key":"k","other":1,"value":1}', "unknown member 'other'"
    yield b'{"value":1,"scope":"s","key":"k"}', "must stand last"
    yield b"[1]", "not a JSON object"
    yield b'{"end":true}', "the last line must have"
    yield b'{"scope":"s","key":"k","value":"%b"}' % (b"x" * 5_000_000), "the limit is"


async def test_bad_lines_are_refused_by_number_and_reason(target: StateManager) -> None:
    cases = list(bad_lines())
    good = b'{"scope":"s","key":"good %d","value":%d}\n'
    lines = [value_lines.first_line("n", None)]
    for number, (line, _) in enumerate(cases):
        lines += [line + b"\n", good % (number, number)]
    lines.append(value_lines.last_line(2 * len(cases), "c"))
    refused: list[RefusedLine] = []
    done = await imported(target, lines, refused=refused.append)
    assert (done.created, done.refused, done.problem, done.cursor) == (len(cases), len(cases), None, "c")
    for number, (line, (_, reason)) in enumerate(zip(refused, cases, strict=True)):
        assert (line.line, reason in line.reason) == (2 + 2 * number, True), (line, reason)
    assert len(await target.list("s")) == len(cases)


@pytest.mark.parametrize(
    ("text", "is_canonical"),
    [
        (b'{"a":1.50,"b":[1e5,"x"]}', True),
        (b'"x"', True),
        (b"1E5", True),
        (b'{"a": 1}', False),
        (b'{"a":1,"a":2}', False),
        (b'{"\\u0061":1}', False),
        (b'{"a":"\\""}', False),
        (b'{"a":"["}', False),
        (b'{"a":"\\u005b"}', True),
        (b" 1", False),
    ],
)
def test_only_canonical_json_gets_the_mark(text: bytes, is_canonical: bool) -> None:
    line = b'{"scope":"s","key":"k","value":%b}' % text
    found = decode_line(line, Limits())
    assert isinstance(found, StoredValue)
    assert found.text == text + (codec.CANONICAL_MARK if is_canonical else b"")


async def test_cut_files_are_recognised(state: StateManager, target: StateManager) -> None:
    await state.set_many("s", {"a": 1, "b": 2, "c": 3})
    lines = await exported(state)
    assert (await imported(target, lines[:-1])).problem == "the file has no last line: it was cut"
    done = await imported(target, [*lines[:-2], lines[-2][:20]])
    assert (done.refused, done.problem) == (1, "the file has no last line: it was cut")
    done = await imported(target, [*lines[:2], *lines[3:]])
    assert done.problem == "the last line counts 3 values, and the file has 2: some are missing or added"
    done = await imported(target, [*lines, lines[1]])
    assert done.refused == 1


@pytest.mark.parametrize("first", [b"", b"{}\n", b"[]\n", b'{"format":"motia-redis values","version":2}\n', b"\x80\n"])
async def test_other_files_are_rejected(target: StateManager, first: bytes) -> None:
    with pytest.raises(StateError, match="line 1"):
        await imported(target, [first, b'{"scope":"s","key":"k","value":1}\n'])
    assert await target.list_groups() == []


async def test_names_that_are_not_utf8_are_left_out_and_counted(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    put(raw, state, namespace, b"s", {b"\xff": b"1", b"k": b"2"})
    put(raw, state, namespace, b"\xfe", {b"k": b"1"})
    parts: list[bytes] = []
    done = await export_values(state, parts.append)
    assert (done.values, done.unnamed) == (1, 2)


async def test_only_some_scopes_are_exported(state: StateManager) -> None:
    for scope in "abc":
        await state.set(scope, "k", scope)
    lines = await exported(state, ["a", "c", "missing"])
    assert sorted(json.loads(line)["scope"] for line in lines[1:-1]) == ["a", "c"]
    assert json.loads(lines[0])["scopes"] == ["a", "c", "missing"]


async def test_cursor_follows_the_export(state: StateManager) -> None:
    await state.set("s", "k", 1)
    cursors = [json.loads((await exported(state, scopes))[-1])["cursor"] for scopes in (None, ["s"])]
    await state.set("s", "k", 2)
    for cursor in cursors:
        async with state.watch("s", start=cursor) as watch:
            assert (await anext(watch)).value == 2  # type: ignore[union-attr]


async def test_export_while_writers_run_has_values_of_some_moment(state: StateManager, second: StateManager) -> None:
    keys = [str(number) for number in range(3000)]
    await state.set_many("s", {key: [0, 0] for key in keys}, atomic=False)
    is_over = False

    async def write(number: int) -> None:
        count = 0
        while not is_over:
            count += 1
            await second.set("s", keys[(number * 100 + count) % 3000], [count, count])

    writers = [asyncio.create_task(write(number)) for number in range(5)]
    try:
        lines = await exported(state)
    finally:
        is_over = True
        await asyncio.gather(*writers)
    values = [json.loads(line) for line in lines[1:-1]]
    assert {value["key"] for value in values} == set(keys)
    assert all(value["value"][0] == value["value"][1] for value in values)


async def test_triggers_skip_imports_unless_they_fire(state: StateManager, target: StateManager, raw: redis.Redis) -> None:
    await state.set("s", "a", 1)
    lines = await exported(state)
    recorder = Recorder()
    async with working(target, record(recorder, state_trigger(scope="s"))):
        await imported(target, lines)
        await target.set("s", "marker", 0)
        await recorder.wait(1)
        await target.delete("s", "a")
        await recorder.wait(2)
        await imported(target, lines, fire=True)
        await recorder.wait(3)
    assert [(each.item_id, each.event_type) for each in recorder.inputs] == [
        ("marker", "state:created"),
        ("a", "state:deleted"),
        ("a", "state:created"),
    ]


async def test_hash_of_another_type_refuses_its_lines_only(target: StateManager, raw: redis.Redis, namespace: str) -> None:
    raw.set(f"{{{target.namespace}:{codec_partition(b'bad')}}}:state:bad", "text")
    lines = [value_lines.first_line("n", None)]
    lines += [b'{"scope":"%b","key":"k","value":1}\n' % scope for scope in (b"a", b"bad", b"c")]
    refused: list[RefusedLine] = []
    done = await imported(target, [*lines, value_lines.last_line(3, "")], refused=refused.append)
    assert (done.created, done.refused) == (2, 1)
    assert refused[0].line == 3
    assert "WRONGTYPE" in refused[0].reason


async def test_large_values_are_replaced_in_several_calls(target: StateManager) -> None:
    text = "x" * 1_000_000
    for number in range(12):
        await target.set("s", str(number), text + str(number))
    lines = [value_lines.first_line("n", None)]
    lines += [b'{"scope":"s","key":"%d","value":%d}\n' % (number, number) for number in range(12)]
    done = await imported(target, [*lines, value_lines.last_line(12, "")], "overwrite")
    assert done.overwritten == 12
    assert sorted(await target.list("s")) == list(range(12))


async def test_key_that_comes_twice_ends_with_its_last_value(target: StateManager) -> None:
    lines = [value_lines.first_line("n", None)]
    lines += [b'{"scope":"s","key":"k","value":%d}\n' % number for number in range(3)]
    done = await imported(target, [*lines, value_lines.last_line(3, "")], "overwrite")
    assert (done.created, done.overwritten, done.problem) == (1, 2, None)
    assert await target.get("s", "k") == 2


@pytest.mark.parametrize("program", PACKAGED)
async def test_full_server_stops_an_import_that_goes_on_later(program: str, tmp_path: Path) -> None:
    import redis

    with RedisServer(tmp_path, program=packaged(program)) as server, redis.Redis.from_url(server.url) as raw:
        async with StateManager(server.url, namespace="b", deadline=0.2) as target:
            await target.set("s", "0", 0)
            raw.config_set("maxmemory", 1)
            lines = [value_lines.first_line("n", None)]
            lines += [b'{"scope":"s","key":"%d","value":%d}\n' % (number, number) for number in range(2000)]
            lines.append(value_lines.last_line(2000, ""))
            with pytest.raises(StateUnavailable, match="full"):
                await imported(target, lines)
            assert await target.count("s") == 1
            raw.config_set("maxmemory", 0)
            done = await imported(target, lines)
            assert (done.created, done.same) == (1999, 1)


async def test_events_of_imports_name_their_reason(target: StateManager, raw: redis.Redis) -> None:
    lines = [value_lines.first_line("n", None), b'{"scope":"s","key":"k","value":1}\n', value_lines.last_line(1, "")]
    await imported(target, lines)
    (stream,) = raw.scan_iter(f"{{{target.namespace}:*}}:events:*")
    ((entry_id, fields),) = raw.xrange(stream)
    del fields[b"request"]
    expected = {b"type": b"state:created", b"scope": b"s", b"key": b"k", b"new": b"1\t\r\t", b"reason": b"import"}
    assert fields == expected
    entry = await target.entry("s", "k")
    assert entry is not None
    assert entry.revision == entry_id.decode()


def test_refusals_are_errors_of_lines_only() -> None:
    with pytest.raises(Refusal, match="'values' and 'cursor'"):
        decode_line(b'{"end":true,"values":"x"}', Limits())
