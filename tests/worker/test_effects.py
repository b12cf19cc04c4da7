"""G13: a step with `effects_once` makes the changes and messages of one event once, however often its handler runs."""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import FlowContext, StateManager, StateTriggerInput, queue, step
from motia_redis import state as state_trigger
from motia_redis._admin.dead_letters import DeadLetters
from motia_redis._admin.registry import rename_step
from motia_redis._store import effects
from motia_redis.errors import RevisionConflict, StepError
from tests.faults.worker_processes import WorkerProcesses
from tests.support.dead_letters import wait_for_dead_letters
from tests.support.waiting import until, until_holds
from tests.support.workers import Recorder, pending, record, working

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from motia_redis._steps.definitions import Step
    from tests.support.servers import RedisServer

INCREMENT: list[Any] = [{"op": "increment", "path": "/n", "value": 1}]
JOBS = state_trigger(scope="jobs")


class Crash(Exception):
    """What a handler raises in its middle."""


def once(handler: Any, *triggers: Any, name: str = "Once", **config: Any) -> Step:
    settings: Any = {"backoff": 0.01, "effects_once": True, **config}
    return step({"name": name, "triggers": list(triggers or [JOBS]), **settings}).handle(handler)


def records(raw: redis.Redis, namespace: str) -> list[bytes]:
    return raw.keys(f"{{{namespace}:*}}:effects:*")


def messages(raw: redis.Redis, namespace: str, topic: str) -> list[dict[bytes, bytes]]:
    return [fields for key in raw.keys(f"{{{namespace}:*}}:topic:*:{topic}") for _, fields in raw.xrange(key)]


def changes(raw: redis.Redis, namespace: str, scope: str) -> int:
    entries = [fields for key in raw.keys(f"{{{namespace}:*}}:events:*") for _, fields in raw.xrange(key)]
    return sum(fields.get(b"scope") == scope.encode() for fields in entries)


async def wait_until_free(raw: redis.Redis, namespace: str) -> None:
    async def done() -> bool:
        return not await pending(raw, namespace) and not records(raw, namespace)

    await until(done, "the entries are finished, and their records are gone")


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.usefixtures("each_way")
async def test_handler_that_runs_again_makes_each_change_and_message_once(
    state: StateManager, raw: redis.Redis, namespace: str, server: RedisServer, kind: str
) -> None:
    runs, results = 0, []

    async def work(state: StateManager, ctx: FlowContext) -> None:
        nonlocal runs
        runs += 1
        made: list[Any] = [await state.update("sums", key, INCREMENT) for key in ("a", "b", "a")]
        made.append(await state.set("sums", "c", runs))
        made.append(await state.delete("sums", "b"))
        made += [await ctx.enqueue({"topic": "mail", "data": runs}), await state.enqueue("mail", runs, key="k")]
        if runs < 3:
            results.append(made)
            raise Crash
        results.append(made)

    async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        await work(ctx.state, ctx)

    def sync_handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        async def run() -> None:  # in a thread, with a loop of its own
            async with StateManager(server.url, namespace=namespace) as own:
                await work(own, FlowContext(**{**context(ctx), "state": own}))

        asyncio.run(run())

    async with working(state, once(handler if kind == "async" else sync_handler)):
        await state.set("jobs", "one", 1)
        await until_holds(lambda: len(results) == 3, "three attempts")
        await wait_until_free(raw, namespace)
    assert results[0] == results[1] == results[2]
    assert results[0][:5] == [{"n": 1}, {"n": 1}, {"n": 2}, 1, {"n": 1}]
    assert await state.items("sums") == {"a": {"n": 2}, "c": 1}
    assert changes(raw, namespace, "sums") == 5
    assert sorted(found[b"data"] for found in messages(raw, namespace, "mail")) == [b"1", b"1"]


def context(ctx: FlowContext) -> dict[str, Any]:
    return {name: getattr(ctx, name) for name in ("logger", "trace_id", "trigger", "step_name")}


async def test_without_the_option_there_are_no_records_and_changes_are_made_again(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    runs, seen = 0, []

    async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        nonlocal runs
        runs += 1
        await ctx.state.update("sums", "a", INCREMENT)
        seen.extend(records(raw, namespace))
        if runs < 2:
            raise Crash

    async with working(state, record(handler, JOBS, backoff=0.01)):
        await state.set("jobs", "one", 1)
        await until_holds(lambda: runs == 2, "two attempts")
    assert seen == []
    assert await state.get("sums", "a") == {"n": 2}


async def test_calls_that_are_skipped_or_made_at_once_do_no_harm(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    runs = 0

    async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        nonlocal runs
        runs += 1
        if runs != 2:
            await ctx.state.update("sums", "sometimes", INCREMENT)
        keys = [str(number) for number in range(50)]
        random.shuffle(keys)
        await asyncio.gather(*(ctx.state.update("sums", key, INCREMENT) for key in keys))
        await asyncio.gather(*(ctx.enqueue({"topic": "mail", "data": number}) for number in range(20)))
        if runs < 4:
            raise Crash

    async with working(state, once(handler)):
        await state.set("jobs", "one", 1)
        await until_holds(lambda: runs == 4, "four attempts")
        await wait_until_free(raw, namespace)
    assert await state.items("sums") == {name: {"n": 1} for name in ["sometimes", *map(str, range(50))]}
    assert sorted(int(found[b"data"]) for found in messages(raw, namespace, "mail")) == list(range(20))


async def test_arguments_may_differ_and_the_first_outcome_is_returned(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    runs: list[Any] = []

    async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        number = len(runs) + 1
        made = [
            await ctx.state.set("orders", "one", {"id": os.urandom(8).hex(), "at": time.time_ns()}, ttl=100 + number),
            await ctx.state.set("orders", "one", number),  # the same kind of call: the second one
            await ctx.state.set("orders", "two", number, if_revision=None),
            await ctx.state.expire("orders", "two", 1000 * number),
            await ctx.state.expire("orders", "nobody", 1000 * number),
            await ctx.state.delete("orders", "nobody"),
            await ctx.enqueue({"topic": "mail", "data": number}, delay=3600 + number),
        ]
        made.append(await ctx.state.cancel(made[-1]))
        runs.append(made)
        if number < 3:
            await state.set("orders", "nobody", number)  # in between, not lasting
            raise Crash

    async with working(state, once(handler)):
        await state.set("jobs", "one", 1)
        await until_holds(lambda: len(runs) == 3, "three attempts")
        await wait_until_free(raw, namespace)
    assert runs[0] == runs[1] == runs[2]
    assert runs[0][1:6] == [1, 1, True, False, None]
    assert runs[0][-1] is True
    assert await state.items("orders") == {"one": 1, "two": 1, "nobody": 1}


async def test_cleared_scope_is_not_cleared_again(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    runs = 0
    await state.set("cache", "old", 1)

    async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        nonlocal runs
        runs += 1
        await ctx.state.clear("cache")
        await ctx.state.set("cache", "new", runs)
        if runs < 3:
            raise Crash

    async with working(state, once(handler)):
        await state.set("jobs", "one", 1)
        await until_holds(lambda: runs == 3, "three attempts")
        await wait_until_free(raw, namespace)
    assert await state.items("cache") == {"new": 1}
    assert changes(raw, namespace, "cache") == 3


async def test_errors_are_not_recorded(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    failures = []
    await state.set("sums", "a", "taken")

    async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        try:
            await ctx.state.set("sums", "a", 1, if_revision=None)
        except RevisionConflict:
            failures.append(1)
            await state.delete("sums", "a")
            raise

    async with working(state, once(handler)):
        await state.set("jobs", "one", 1)
        await wait_until_free(raw, namespace)
    assert failures == [1]
    assert await state.get("sums", "a") == 1


async def test_idempotency_key_keeps_its_own_meaning(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        await ctx.state.update("sums", "a", INCREMENT, idempotency_key="for all jobs")
        await ctx.state.update("sums", "b", INCREMENT)
        if ctx.trigger.attempt == 1:
            raise Crash

    async with working(state, once(handler)):
        for job in ("one", "two"):
            await state.set("jobs", job, 1)
        await wait_until_free(raw, namespace)
    assert await state.items("sums") == {"a": {"n": 1}, "b": {"n": 2}}


async def test_manager_of_another_namespace_is_not_covered(
    state: StateManager, server: RedisServer, raw: redis.Redis, namespace: str
) -> None:
    async with StateManager(server.url, namespace=f"{namespace}.other") as other:

        async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
            await other.update("sums", "a", INCREMENT)
            if ctx.trigger.attempt == 1:
                raise Crash

        async with working(state, once(handler)):
            await state.set("jobs", "one", 1)

            async def done() -> bool:
                return await other.get("sums", "a") == {"n": 2}

            await until(done, "two attempts")
        assert not records(raw, f"{namespace}.other")


KILLED_STEP = """
import asyncio, os, signal
from motia_redis import enqueue, stateManager, state, step

INCREMENT = [{"op": "increment", "path": "/n", "value": 1}]

@step({"name": "Killed", "triggers": [state(scope="jobs")], "effects_once": True})
async def killed(input, ctx):
    await ctx.state.update("sums", "a", INCREMENT)
    await stateManager.update("sums", "b", INCREMENT)
    await enqueue({"topic": "mail", "data": 1})
    await ctx.enqueue({"topic": "mail", "data": 2})
    if not os.path.exists("was killed"):
        open("was killed", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    await stateManager.update("sums", "c", INCREMENT)
"""


async def test_killed_process_and_its_successor_make_each_change_once(
    state: StateManager, server: RedisServer, raw: redis.Redis, namespace: str, tmp_path: Path
) -> None:
    application = tmp_path / "killed_step.py"
    application.write_text(KILLED_STEP)
    with WorkerProcesses(tmp_path, server.url, namespace, application=application) as workers:
        workers.start(2)
        await workers.ready(2)
        await state.set("jobs", "one", 1)

        async def done() -> bool:
            return await state.get("sums", "c") == {"n": 1}

        await until(done, "the other worker has taken over")
        assert (tmp_path / "was killed").exists()
        await wait_until_free(raw, namespace)
    assert await state.items("sums") == {name: {"n": 1} for name in "abc"}
    assert changes(raw, namespace, "sums") == 3
    assert sorted(found[b"data"] for found in messages(raw, namespace, "mail")) == [b"1", b"2"]


async def test_records_are_kept_when_the_acknowledgement_is_rejected(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    """Another worker has the lane: the entry runs again there, and must find what was done."""
    runs = 0

    async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        nonlocal runs
        runs += 1
        await ctx.state.update("sums", "a", INCREMENT)
        if runs == 1:
            for leases in raw.keys(f"{{{namespace}:*}}:leases"):
                lanes = [field for field in raw.hkeys(leases) if field.startswith(b"lane Once\n")]
                raw.hset(leases, mapping=dict.fromkeys(lanes, "another worker"))

    async with working(state, once(handler), lease=1.0):
        await state.set("jobs", "one", 1)
        await until_holds(lambda: runs == 2, "the entry runs again")
        await wait_until_free(raw, namespace)
    assert await state.get("sums", "a") == {"n": 1}


async def test_records_are_there_until_the_acknowledgement(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    seen: list[int] = []
    release = asyncio.Event()

    async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        await ctx.state.update("sums", input.item_id, INCREMENT)
        seen.append(len(records(raw, namespace)))
        await release.wait()

    async with working(state, once(handler)) as (worker,):
        await state.set("jobs", "one", 1)
        await until_holds(lambda: seen == [1], "the handler has changed something")
        (key,) = records(raw, namespace)
        assert raw.pttl(key) > 60 * 86_400_000, "longer than dead letters live"
        worker.stop()  # the lane is given away; the entry is settled alone
        await asyncio.sleep(0.1)
        assert records(raw, namespace) == [key]
        release.set()
    await wait_until_free(raw, namespace)
    assert seen == [1]


async def test_only_partitions_with_records_are_asked_to_free_them(
    state: StateManager, monkeypatch: pytest.MonkeyPatch, raw: redis.Redis, namespace: str
) -> None:
    """An entry that was written while this worker held the lane was tried by no other process."""
    monkeypatch.setattr("motia_redis._worker.effects._MARGIN", -1)
    freed: list[Any] = []
    free = effects.free

    async def spy(router: Any, names: Any, found: Any) -> None:
        freed.extend(partitions for _, partitions in found)
        await free(router, names, found)

    monkeypatch.setattr(effects, "free", spy)

    async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        await ctx.state.set("one scope", "a", 1)
        if input.new_value == "retry" and ctx.trigger.attempt == 1:
            raise Crash

    async with working(state, once(handler)):
        for value in ("before the lane is held, perhaps", "once", "retry"):
            await state.set("jobs", "one", value)
            await wait_until_free(raw, namespace)
    partition = (await state.connect()).partition(b"one scope")
    assert freed[1:] == [{partition}, {partition}]


@pytest.mark.parametrize("renamed", [False, True])
async def test_dead_letter_keeps_its_records_through_retries_and_a_new_name(
    state: StateManager, raw: redis.Redis, namespace: str, renamed: bool
) -> None:
    runs = 0
    letters = DeadLetters(state)

    async def handler(input: Any, ctx: FlowContext) -> None:
        nonlocal runs
        runs += 1
        await ctx.state.update("sums", "a", INCREMENT)
        await ctx.enqueue({"topic": "mail", "data": ctx.id("mail")})
        if runs < 4:
            raise Crash

    name = "Once"
    triggers = JOBS, queue("work")
    await state.enqueue("work", 1)
    for _ in range(3):
        async with working(state, once(handler, *triggers, name=name, max_attempts=1)):
            (letter,) = await wait_for_dead_letters(letters, 1)
            assert records(raw, namespace)
            if not renamed:
                made = runs
                await letters.retry(name, letter.id)
                await until_holds(lambda made=made: runs > made, "the next attempt")
        if renamed:
            old, name = name, f"{name}x"
            await rename_step(state, old, name)
            await letters.retry(name, letter.id)
        if runs == 4:
            break
    async with working(state, once(handler, *triggers, name=name, max_attempts=1)):
        await until_holds(lambda: runs == 4, "the last attempt")
        await wait_until_free(raw, namespace)
    assert await letters.count() == 0
    assert await state.get("sums", "a") == {"n": 1}
    assert len(messages(raw, namespace, "mail")) == 1


async def test_failed_entry_finds_its_records_under_the_new_name_of_its_step(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    ids: list[str] = []

    async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        ids.append(ctx.id())
        await ctx.state.update("sums", input.item_id, INCREMENT)
        if len(ids) == 1:
            raise Crash

    async with working(state, once(handler, name="Old", backoff=1)):
        await state.set("jobs", "one", 1)
        await until_holds(lambda: len(ids) == 1, "the first attempt")
    await rename_step(state, "Old", "New")
    async with working(state, once(handler, name="New"), once(handler, name="Old")):
        await until_holds(lambda: len(ids) == 2, "the second attempt")
        assert ids[0] == ids[1]
        await state.set("jobs", "two", 2)
        await wait_until_free(raw, namespace)
    assert len(set(ids)) == 3, "the next step with the old name has ids of its own"
    assert await state.items("sums") == {"one": {"n": 1}, "two": {"n": 2}}


@pytest.mark.parametrize("how", ["one", "all"])
async def test_records_are_freed_when_the_dead_letter_is_dropped(
    state: StateManager, raw: redis.Redis, namespace: str, how: str
) -> None:
    letters = DeadLetters(state)

    async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        for scope in ("sums", "more", "most"):
            await ctx.state.update(scope, input.item_id, INCREMENT)
        raise Crash

    async with working(state, once(handler, max_attempts=2)):
        for job in ("one", "two"):
            await state.set("jobs", job, 1)
        first, _ = await wait_for_dead_letters(letters, 2)
    assert len(records(raw, namespace)) == 6
    if how == "all":
        assert await letters.drop_all() == 2
        assert records(raw, namespace) == []
    else:
        await letters.drop("Once", first.id)
        assert len(records(raw, namespace)) == 3, "those of the other letter stay"


async def test_ids_are_the_same_in_all_attempts_and_differ_between_names_events_and_steps(state: StateManager) -> None:
    found: dict[str, set[str]] = {}

    async def handler(input: StateTriggerInput, ctx: FlowContext) -> None:
        for name in ("", "a", "b"):
            found.setdefault(f"{ctx.step_name} {input.item_id} {name}", set()).add(ctx.id(name))
        if ctx.trigger.attempt == 1:
            raise Crash
        await done(input, ctx)

    done = Recorder()
    async with working(state, once(handler), record(handler, JOBS, backoff=0.01)):
        for job in ("one", "two"):
            await state.set("jobs", job, 1)
        await done.wait(4)
        with pytest.raises(StepError, match="takes a name"):
            done.contexts[0].id(1)  # type: ignore[arg-type]
    assert len(found) == 12
    assert all(len(ids) == 1 for ids in found.values())
    assert len(set.union(*found.values())) == 12
    assert all(len(text) == 32 and int(text, 16) for text in set.union(*found.values()))


async def test_effects_once_must_be_true_or_false() -> None:
    with pytest.raises(StepError, match="'effects_once' must be True or False, not 1"):
        step({"name": "Once", "triggers": [JOBS], "effects_once": 1})  # type: ignore[typeddict-item]
