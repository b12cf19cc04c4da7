"""No update blocks Redis for long (G8): the most expensive ones that are known, and a short search for others, on each server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis.errors import InvalidOperation, StateError, TestFailed, TooMuchWork, ValueTooLarge
from tests.fuzzing.costs import LONGEST, Candidate, Meter, search
from tests.support.servers import RedisServer, all_servers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from motia_redis import StateManager


@pytest.fixture(scope="module", params=all_servers())
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), program=all_servers()[request.param]) as server:
        yield server


def candidate(operation: str, size: int, **given: Any) -> Candidate:
    fields = {"shape": "array", "atoms": ("1",), "unit": "a", "name": "n", "large_first": True, "form": "canonical"}
    return Candidate(operation=operation, size=size, **fields | {"target": "large", "value": "same", "repeat": 1} | given)  # type: ignore[arg-type]


KNOWN = {
    "1,000 tests of an array whose last number is spelled differently": candidate("test", 8_000, value="spelled", repeat=1000),
    "failing test of an array of 4 MB": candidate("test", 4_000_000, value="spelled"),
    "test of an object in another order": candidate("test", 2_000_000, shape="object", value="reordered"),
    "tests of a chain of objects": candidate("test", 60_000, shape="chain", value="spelled", repeat=100),
    "4 MB of the first byte of the name": candidate("increment", 4_000_000, shape="text", target="small", name="a"),
    "4 MB of the first byte of a long name": candidate("increment", 4_000_000, shape="text", target="small", name="a" * 4000),
    "the name missing in an object before the end": candidate("remove", 4_000_000, target="missing inside", repeat=1000),
    "one change of 4 MB": candidate("increment", 4_000_000, target="small", atoms=('"abcdefg"', "1", '{"x":"y"}')),
    "changes at both ends of 2 MB": candidate("add", 2_000_000, large_first=False, target="small", both_ends=True),
    "another value instead of 4 MB": candidate("replace", 4_000_000, target="root", value="long"),
    "the same value instead of 2 MB": candidate("replace", 2_000_000, target="root"),
    "1,000 changes of 60 KB": candidate("increment", 60_000, target="small", repeat=1000),
    "merge of 20,000 members": candidate("merge", 8_000, shape="object", value="long"),
    "merges into the deepest object": candidate("merge", 60_000, shape="chain", atoms=("{}",), target="deep", repeat=100),
    "a name missing where small containers have it": candidate(
        "remove", 2_000_000, shape="object", atoms=("[1]", "{}", '"é"', '{"b":{"a":[]}}', '[[],"x"]', '{"a":1}'),
        target="deep", repeat=100,
    ),
    "copy of brackets to a deeper place": candidate("copy", 1_000_000, shape="chain", atoms=("[]",), target="deep", repeat=10),
    "non-canonical text of escapes": candidate("replace", 127_000, shape="text", unit="\\u0061", form="compact", repeat=1000),
    "non-canonical names": candidate("remove", 100, form="spaced", target="missing", name="a" * 4000, repeat=1000),
    "non-canonical text outside ASCII": candidate("test", 127_000, shape="text", unit="𝄞", form="compact", repeat=30),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
async def test_known_expensive_update_is_short_or_rejected(server: RedisServer, name: str) -> None:
    async with Meter(server) as meter:
        measured = await meter.measure(KNOWN[name])
    print(measured)
    assert measured.time <= LONGEST


async def test_search_finds_no_update_that_takes_too_long(server: RedisServer) -> None:
    _, found = await search(server, 2.0, seed=1)
    print(found[0])
    assert found[0].time <= LONGEST


async def test_change_of_a_value_of_the_largest_size_is_accepted(state: StateManager) -> None:
    await state.set("s", "k", {"text": "x" * (state.limits.value_bytes - 100), "n": 0})
    assert (await state.update("s", "k", [{"op": "increment", "path": "/n", "value": 1}]))["n"] == 1


async def test_tests_of_the_same_text_are_cheap(state: StateManager) -> None:
    value = {"list": [{"id": number, "name": f"name {number}"} for number in range(300)]}
    await state.set("s", "k", value)
    assert len(json.dumps(value)) > 7000
    assert await state.update("s", "k", [{"op": "test", "path": "/list", "value": value["list"]}] * 500) == value


async def test_failing_test_ends_at_the_first_difference(state: StateManager) -> None:
    await state.set("s", "k", [0] + [1] * 1_000_000)
    with pytest.raises(TestFailed):
        await state.update("s", "k", [{"op": "test", "path": "", "value": [1] * 1_000_000}])


@pytest.mark.parametrize("value", [12, 1.5, "text", [1, 2], {"a": 1}, None, True])
async def test_value_that_only_begins_like_the_given_one_is_not_equal(state: StateManager, value: Any) -> None:
    """The texts are compared first, and 1 is the beginning of 12."""
    await state.set("s", "k", {"v": value, "w": 1})
    for other in (1, "t", [1], {}, 1.0, "", []):
        with pytest.raises(TestFailed):
            await state.update("s", "k", [{"op": "test", "path": "/v", "value": other}])
    assert (await state.update("s", "k", [{"op": "test", "path": "/v", "value": value}]))["v"] == value


async def test_too_many_parts_are_rejected_before_they_are_sent(state: StateManager) -> None:
    with pytest.raises(InvalidOperation, match="more than 50000 path segments, members and values"):
        await state.update("s", "k", [{"op": "merge", "path": "", "value": dict.fromkeys(map(str, range(30_000)), 1)}])
    with pytest.raises(ValueTooLarge, match="operations 0 to 2 hold"):
        await state.update("s", "k", [{"op": "add", "path": "/a", "value": "x" * 4_000_000}] * 1000)
    assert await state.get("s", "k") is None


async def test_rejection_for_its_cost_changes_nothing_and_says_what_to_do(state: StateManager) -> None:
    await state.set("s", "k", {"a": [1] * 100_000, "n": 0})
    ops = [{"op": "increment", "path": "/n", "value": 1}, {"op": "test", "path": "/a", "value": [1] * 99_999 + [1.0]}]
    with pytest.raises(TooMuchWork, match=r"operation 1: .*split the update or the value"):
        await state.update("s", "k", ops)
    assert (await state.get("s", "k"))["n"] == 0
    assert issubclass(TooMuchWork, StateError)
