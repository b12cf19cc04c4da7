"""Reading a large scope: what Python's garbage collector does meanwhile."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis._store.collecting import young_only
from motia_redis.errors import CorruptValue

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from motia_redis import StateManager

VALUES = 4000


@pytest.fixture
def thresholds() -> Iterator[tuple[int, int, int]]:
    """Return thresholds of the collector at which it runs often, set for the test."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()  # else what the tests before have left makes full collections rare
    gc.set_threshold(100, 2, 2)
    try:
        yield 100, 2, 2
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


async def fill(state: StateManager) -> None:
    for first in range(0, VALUES, 500):
        await state.set_many("big", {str(n): {"items": [{"n": n}]} for n in range(first, first + 500)}, atomic=False)


async def test_list_of_many_values_is_never_traversed_by_the_collector_while_it_grows(
    state: StateManager, thresholds: tuple[int, int, int]
) -> None:
    await fill(state)
    generations: list[int] = []

    def note(phase: str, info: dict[str, Any]) -> None:
        if phase == "start":
            generations.append(info["generation"])

    gc.collect()
    gc.callbacks.append(note)
    try:
        values = await state.list("big")
        # The last block ends before the call does, so a collection or two may still follow.
        while generations and generations[-1]:
            generations.pop()
    finally:
        gc.callbacks.remove(note)
    assert len(values) == VALUES
    assert len(generations) > 3, "young objects are still looked at"  # 9 times by Python 3.13
    assert set(generations) == {0}, "older ones are not"
    assert gc.get_threshold() == thresholds


async def test_thresholds_of_the_collector_are_restored_by_the_last_of_several_lists_also_after_an_error(
    state: StateManager, raw: redis.Redis, thresholds: tuple[int, int, int]
) -> None:
    await fill(state)
    await state.set("small", "key", 1)
    assert [len(values) for values in await asyncio.gather(state.list("big"), state.list("small"), state.list("big"))] == [
        VALUES,
        1,
        VALUES,
    ]
    assert gc.get_threshold() == thresholds
    raw.hset((await state.connect()).values(b"small"), "key", "{broken")
    with pytest.raises(CorruptValue):
        await state.list("small")
    assert gc.get_threshold() == thresholds


def test_thresholds_that_somebody_else_sets_meanwhile_are_kept(thresholds: tuple[int, int, int]) -> None:
    with young_only():
        assert gc.get_threshold() != thresholds
        gc.set_threshold(500, 5, 5)
    assert gc.get_threshold() == (500, 5, 5)


def test_thresholds_are_restored_by_the_outer_of_two_blocks(thresholds: tuple[int, int, int]) -> None:
    with young_only():
        with young_only():
            changed = gc.get_threshold()
        assert gc.get_threshold() == changed != thresholds
    assert gc.get_threshold() == thresholds
