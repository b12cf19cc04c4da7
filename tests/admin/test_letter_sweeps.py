"""Retrying and dropping dead letters by filter: dry runs, rates, refusals, several people at once."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import StateManager, queue
from motia_redis import state as state_trigger
from motia_redis._admin.dead_letters import DeadLetters
from motia_redis._admin.letter_filters import LetterFilter, error_name, find_letters, named, oldest_letters, read_groups
from motia_redis._admin.letter_sweeps import Sweep
from motia_redis._admin.registry import forget_step
from motia_redis._admin.status import read_status
from motia_redis._store.entry_ids import order
from motia_redis.errors import StateError
from tests.support.commands import error_line, run_command
from tests.support.dead_letters import failing_step, wait_for_dead_letters
from tests.support.waiting import until
from tests.support.workers import working

if TYPE_CHECKING:
    from motia_redis._admin.letters import DeadLetter, LetterCursor
    from tests.support.servers import RedisServer


async def fail(input: Any, ctx: Any) -> None:
    number = input if isinstance(input, int) else input.new_value
    if number % 2:
        raise KeyError(f"order {number} of 3f2a9c81d0")
    raise ValueError(f"cannot digest {number}\nsecond line {number}")


@pytest.fixture
async def dead(state: StateManager) -> list[DeadLetter]:
    """40 letters of Sick in 10 scopes, and 10 of Mail; no worker runs."""
    async with working(state, failing_step(fail, "Sick", state_trigger()), failing_step(fail, "Mail", queue("mail"))):
        for number in range(40):
            await state.set(f"scope{number % 10}", f"key-{number:02}", number)
        for number in range(10):
            await state.enqueue("mail", number)
        return await wait_for_dead_letters(DeadLetters(state), 50)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", "E"),
        ("no row 17 in 0x7f3a", "E: no row # in #"),
        ("user 3f2a9c81-1b2c-4d5e-8f90-abcdefabcdef\nmore", "E: user #"),
        ("took 1.5s at deadbeef00", "E: took #s at #"),
        ("feedback defaced", "E: feedback defaced"),
        ("x" * 200, "E: " + "x" * 99 + "…"),
    ],
)
def test_name_of_an_error_leaves_out_what_differs(text: str, name: str) -> None:
    assert named("E", text) == name


async def test_groups_count_each_letter_once_and_as_status_does(state: StateManager, dead: list[DeadLetter]) -> None:
    groups = await read_groups(state, None, most_searched=1000)
    assert [(group.step, group.error, group.count) for group in groups.groups] == [
        ("Sick", "KeyError: 'order # of #'", 20),
        ("Sick", "ValueError: cannot digest #", 20),
        ("Mail", "KeyError: 'order # of #'", 5),
        ("Mail", "ValueError: cannot digest #", 5),
    ]
    assert (groups.searched, groups.total) == (50, 50)
    assert groups.total == sum(step.dead_letters for step in (await read_status(state)).steps)
    mine = [letter.time for letter in dead if letter.step == "Mail" and letter.error_type == "KeyError"]
    assert (groups.groups[2].oldest, groups.groups[2].newest) == (min(mine), max(mine))
    cut = await read_groups(state, "Sick", most_searched=7)
    assert (cut.searched, cut.total, sum(group.count for group in cut.groups)) == (7, 40, 7)


@pytest.mark.parametrize(("limit", "most"), [(3, 1000), (1000, 7), (50, 50), (49, 51)])
async def test_pages_of_letters_show_each_once_the_newest_first(
    state: StateManager, dead: list[DeadLetter], limit: int, most: int
) -> None:
    where = LetterFilter(error="ValueError")
    found: list[DeadLetter] = []
    cursor: LetterCursor | None = None
    while True:
        page = await find_letters(state, where, limit=limit, most_searched=most, cursor=cursor)
        assert len(page.letters) <= limit
        assert page.searched <= most
        found += page.letters
        if page.cursor is None:
            break
        cursor = type(page.cursor).parse(str(page.cursor))
    expected = [letter for letter in dead if letter.error_type == "ValueError"]
    assert sorted((letter.step, letter.id) for letter in found) == sorted((letter.step, letter.id) for letter in expected)
    # By their ids. `time` is read before the id is given, so two of one millisecond may have times in the other order.
    places = [order(letter.id.partition("/")[2]) for letter in found]
    assert places == sorted(places, reverse=True)
    assert all(0 <= place[0] - round(letter.time.timestamp() * 1000) < 1000 for place, letter in zip(places, found, strict=True))


async def test_dry_run_says_what_moves_and_letters_that_appear_later_stay(state: StateManager, dead: list[DeadLetter]) -> None:
    for where in (
        LetterFilter(step="Sick", error="ValueError: cannot digest #"),
        LetterFilter(scope="scope3"),
        LetterFilter(topic="mail", error="KeyError"),
        LetterFilter(key_prefix="key-1"),
        LetterFilter(step="Sick", before=dead[25].time),
        LetterFilter(after=dead[45].time),
    ):
        expected = [letter for letter in await DeadLetters(state).list() if where.match(letter)]
        assert expected
        sweep = Sweep(state, where, "drop")
        await sweep.count()
        assert (sweep.expected, sweep.moved) == (len(expected), 0)
        before = await DeadLetters(state).count()
        assert [letter.id for letter in await oldest_letters(state, where, limit=100)] == [letter.id for letter in expected]
        async with working(state, failing_step(fail, "Sick", state_trigger()), failing_step(fail, "Mail", queue("mail"))):
            await state.set("scope3", "key-1", int(time.time() * 1000) // 2 * 2)  # dies, and matches most of the filters
            await state.enqueue("mail", 1)
            await wait_for_dead_letters(DeadLetters(state), before + 2)
        await sweep.run()
        assert (sweep.moved, sweep.refused.total(), sweep.unknown) == (len(expected), 0, 0)
        assert await DeadLetters(state).count() == before + 2 - len(expected)


async def test_refused_letters_are_counted_by_reason_and_stay(state: StateManager, dead: list[DeadLetter]) -> None:
    await forget_step(state, "Mail", force=True)
    async with working(state, failing_step(fail, "Sick", state_trigger(scope="scope1")), workers=1):

        async def runs() -> bool:
            return bool((await read_status(state)).workers)

        await until(runs, "the worker has said what it runs")
        sweep = Sweep(state, LetterFilter(), "retry")
        await sweep.count()
        assert (sweep.expected, dict(sweep.expected_refused)) == (14, {"unwanted": 36})
        await sweep.run()
    assert (sweep.moved, dict(sweep.refused)) == (4, {"unwanted": 36, "no group": 10})
    assert sweep.looked == sweep.existing == 50


async def test_of_two_who_move_the_same_letters_each_counts_its_own(state: StateManager, dead: list[DeadLetter]) -> None:
    sweeps = [Sweep(state, LetterFilter(), action, rate=400) for action in ("retry", "drop", "retry")]
    await asyncio.gather(*(sweep.count() for sweep in sweeps))
    await asyncio.gather(*(sweep.run() for sweep in sweeps))
    assert sum(sweep.moved for sweep in sweeps) == 50
    assert all(sweep.moved + sweep.refused["gone"] == 50 for sweep in sweeps), "each says what became of all that it has counted"
    assert await DeadLetters(state).count() == 0


async def test_rate_is_kept_and_a_stopped_sweep_moves_no_more(state: StateManager, dead: list[DeadLetter]) -> None:
    begin = time.monotonic()
    sweep = Sweep(state, LetterFilter(topic="mail"), "drop", rate=20)
    await sweep.run()
    assert sweep.moved == 10
    assert time.monotonic() - begin >= 8 / 20, "ten letters, two at a time, have four pauses of 0.1 s"

    slow = Sweep(state, LetterFilter(), "drop", rate=5)
    task = asyncio.create_task(slow.run())

    async def has_begun() -> bool:
        return slow.moved >= 2

    await until(has_begun, "two letters were dropped")
    slow.stop()
    await asyncio.wait_for(task, 1)
    assert slow.moved < 10
    assert await DeadLetters(state).count() == 40 - slow.moved


@pytest.mark.parametrize("rate", [0, -1, float("nan"), 1e9])
async def test_rate_that_is_none_is_rejected(state: StateManager, rate: float) -> None:
    with pytest.raises(StateError, match="rate must be"):
        Sweep(state, LetterFilter(), "drop", rate=rate)


async def test_commands_move_by_conditions(
    state: StateManager, server: RedisServer, namespace: str, dead: list[DeadLetter]
) -> None:
    place = f"namespace {namespace!r} of {server.url}"
    name = "ValueError: cannot digest #"
    assert {error_name(letter) for letter in dead} >= {name}

    done = await run_command(server, namespace, "dead", "list", "--error", name, "--scope", "scope4", "--limit", "3")
    shown = {row.split()[5] for row in done.stdout.splitlines()[3:]}
    assert len(shown) == 3
    assert shown < {f"scope4/key-{number}4" for number in range(4)}
    assert "these are the oldest 3 that match" in done.stderr
    done = await run_command(server, namespace, "dead", "list", "--topic", "none")
    assert done.stdout == f"no dead letters that match in {place}\n"

    arguments = ["dead", "drop", "--error", name, "--step", "Sick", "--after", "1h"]
    done = await run_command(server, namespace, *arguments, "--dry-run")
    assert (done.returncode, done.stdout) == (0, f"20 dead letters would be dropped in {place}; nothing was changed\n")
    assert await DeadLetters(state).count() == 50
    done = await run_command(server, namespace, *arguments)
    assert "nothing was dropped" in done.stderr
    assert await DeadLetters(state).count() == 50
    begin = time.monotonic()
    done = await run_command(server, namespace, *arguments, "--yes", "--rate", "20")
    assert (done.returncode, done.stdout) == (0, f"dropped 20 dead letters in {place}\n")
    assert time.monotonic() - begin > 0.8

    tomorrow = (dead[0].time + timedelta(days=1)).isoformat()
    done = await run_command(server, namespace, "dead", "retry", "--before", tomorrow, "--key-prefix", "key-3")
    assert done.stdout.startswith(f"retried 5 dead letters in {place}; each runs again after the newer events of its key")

    await forget_step(state, "Mail", force=True)
    done = await run_command(server, namespace, "dead", "retry", "--topic", "mail")
    assert (done.returncode, done.stdout) == (2, f"retried 0 dead letters in {place}\n")
    assert "10 not retried: the step has no consumer group there; start a worker that runs the step" in done.stderr
    assert done.stderr.splitlines()[-1] == "motia-redis: error: 10 dead letters were not retried"

    for wrong in (
        ["--after", "yesterday"],
        ["--rate", "0", "--all"],
        ["0/1-1", "--step", "Sick", "--dry-run"],
        ["--step", "Sick"],
    ):
        done = await run_command(server, namespace, "dead", "retry", *wrong)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    done = await run_command(server, namespace, "dead", "drop", "--step", "Sick", "0/1-1")
    assert "has no dead letter" in error_line(done)
