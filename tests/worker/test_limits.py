"""`concurrency` and `rate` of a step: never more than they say, nothing is forgotten, and other steps are not delayed."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import StateManager, queue, step
from motia_redis import state as state_trigger
from motia_redis._scripts import delivery
from motia_redis._scripts.delivery import Tokens as Granted
from motia_redis._steps.rates import Rate, parse_rate
from motia_redis._worker import rates
from motia_redis._worker.gates import Gate
from motia_redis._worker.rates import Tokens
from tests.support.waiting import until_holds
from tests.support.workers import Recorder, record, working

if TYPE_CHECKING:
    import redis

USERS = state_trigger(scope="users")


class Gauge:
    """Handlers that count how many of them run."""

    def __init__(self, pause: float = 0.005) -> None:
        self.seen: defaultdict[str, list[int]] = defaultdict(list)
        self.most = self.running = self.ended = 0
        self._pause = pause

    async def __call__(self, input: Any) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self._pause * random.random())
            self.seen[input.item_id].append(input.new_value)
        finally:
            self.running -= 1
        self.ended += 1


async def write(state: StateManager, keys: int, rounds: int) -> None:
    for number in range(rounds):
        await asyncio.gather(*(state.set("users", f"key{key}", number) for key in range(keys)))


# -- concurrency ----------------------------------------------------------------------------------------------------------


async def test_no_more_handlers_run_at_once_than_the_step_says(state: StateManager) -> None:
    gauge = Gauge()
    async with working(state, record(gauge, USERS, concurrency=3)):
        await write(state, keys=20, rounds=10)
        await until_holds(lambda: gauge.ended == 200, "all are handled")
    assert gauge.most == 3
    assert all(numbers == list(range(10)) for numbers in gauge.seen.values()), "in order per key"


async def test_step_that_waits_for_a_place_does_not_delay_others(state: StateManager) -> None:
    """200 keys of the slow step wait, which is more than the worker has slots."""
    may_end = asyncio.Event()

    async def slow(_: Any) -> None:
        await may_end.wait()

    other = Recorder()
    steps = step({"name": "Slow", "triggers": [USERS], "concurrency": 2}).handle(slow), record(other, USERS)
    async with working(state, *steps, concurrency=4) as team:
        await write(state, keys=200, rounds=1)
        await other.wait(200)
        assert sum("step Slow" in text for text in team[0].running()) == 2
        may_end.set()


async def test_failed_attempts_free_their_place(state: StateManager) -> None:
    attempts: list[tuple[str, int]] = []

    async def handler(input: Any, ctx: Any) -> None:
        attempts.append((input.item_id, ctx.trigger.attempt))
        if ctx.trigger.attempt < 3:
            raise ValueError

    async with working(state, record(handler, USERS, concurrency=1, backoff=0.02)):
        await write(state, keys=10, rounds=1)
        await until_holds(lambda: len(attempts) == 30, "three attempts at each")


async def test_no_key_is_forgotten_while_lanes_move(state: StateManager) -> None:
    gauge = Gauge(0.002)
    limited = record(gauge, USERS, concurrency=1)
    async with working(state, limited, lease=1.0):
        writing = asyncio.create_task(write(state, keys=60, rounds=10))
        for _ in range(3):
            async with working(state, limited, lease=1.0) as more:
                await until_holds(lambda more=more: bool(more[0].held_lanes()), "lanes move")  # type: ignore[misc]
        await writing
        wanted = [list(range(10))] * 60
        await until_holds(lambda: [list(dict.fromkeys(n)) for n in gauge.seen.values()] == wanted, "all are handled, in order")


async def test_concurrency_of_a_queue_config_is_that_of_the_step(state: StateManager) -> None:
    def limit(*triggers: Any, **config: Any) -> int | None:
        return record(Recorder(), *triggers, **config).concurrency

    assert limit(queue("mail")) is None
    assert limit(queue("mail", config={"concurrency": 4})) == 4
    assert limit(queue("mail", config={"concurrency": 4}), queue("sms", config={"concurrency": 2})) == 2
    assert limit(queue("mail", config={"concurrency": 4}), concurrency=9) == 4
    assert limit(queue("mail", config={"concurrency": None}), concurrency=9) == 9


# -- rate -----------------------------------------------------------------------------------------------------------------


def check_rate(times: list[float], rate: Rate) -> None:
    """Assert that no window has more than rate * (T + 1 s) + 1 of the times."""
    times = sorted(times)
    for first, began in enumerate(times):
        for last in range(first, len(times)):
            most = rate.per_second * (times[last] - began + 1) + 1
            assert last - first + 1 <= most, f"{last - first + 1} in {times[last] - began:.3f} s"


async def test_no_more_attempts_begin_than_the_rate_allows(state: StateManager) -> None:
    times: list[float] = []

    async def handler(_: Any) -> None:
        times.append(time.monotonic())

    async with working(state, record(handler, USERS, rate="50/s"), workers=2):
        await write(state, keys=30, rounds=5)
        began = time.monotonic()
        await until_holds(lambda: len(times) == 150, "all are handled")
        assert time.monotonic() - began < 6, "as quickly as the rate allows"
    check_rate(times, Rate(50, 1))


async def test_step_that_waits_for_its_rate_does_not_delay_others(state: StateManager) -> None:
    other, seen = Recorder(), Recorder()
    limited = step({"name": "Rated", "triggers": [USERS], "rate": "1/m"}).handle(seen)
    async with working(state, limited, record(other, USERS), concurrency=4):
        await write(state, keys=200, rounds=1)
        await other.wait(200)
        assert len(seen.inputs) == 1


async def test_retries_count_for_the_rate(state: StateManager) -> None:
    times: list[float] = []

    async def handler(_: Any) -> None:
        times.append(time.monotonic())
        raise ValueError

    async with working(state, record(handler, USERS, rate="10/s", max_attempts=20, backoff=0.001, max_backoff=0.001)):
        await state.set("users", "ann", 1)
        await until_holds(lambda: len(times) == 20, "all attempts are made")
    check_rate(times, Rate(10, 1))
    assert times[-1] - times[0] > 0.8


async def test_fast_rate_takes_tokens_in_batches(state: StateManager, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    take_tokens = delivery.take_tokens

    async def counting(*arguments: Any, **options: Any) -> Granted:
        nonlocal calls
        calls += 1
        return await take_tokens(*arguments, **options)

    monkeypatch.setattr(delivery, "take_tokens", counting)
    recorder = Recorder()
    async with working(state, record(recorder, USERS, rate="1000/s")):
        await write(state, keys=500, rounds=2)
        await recorder.wait(1000)
    assert calls < 100


async def test_step_without_limits_has_no_gate_and_takes_no_tokens(state: StateManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "take_tokens", None)
    recorder = Recorder()
    async with working(state, record(recorder, USERS)) as team:
        await state.set("users", "ann", 1)
        await recorder.wait(1)
        assert {lane.subscription.gate for lane in team[0]._run.lanes.values()} == {None}  # type: ignore[union-attr]


async def test_full_redis_hands_out_tokens(state: StateManager, raw: redis.Redis) -> None:
    router, keys = await state.open_router(), await state.connect()
    raw.config_set("maxmemory", 1)
    try:
        assert await delivery.take_tokens(router, keys.rate("A"), interval_ms=10, capacity=2, wanted=1) == Granted(1, 0)
    finally:
        raw.config_set("maxmemory", 0)
        await router.aclose()


async def test_bucket_gives_no_more_than_it_holds_and_fills_at_the_rate(state: StateManager, raw: redis.Redis) -> None:
    router, bucket = await state.open_router(), (await state.connect()).rate("A")
    options: dict[str, Any] = {"interval_ms": 60_000.0, "capacity": 5}
    assert await delivery.take_tokens(router, bucket, wanted=3, **options) == Granted(3, 0)
    taken, wait = await delivery.take_tokens(router, bucket, wanted=3, **options)
    assert taken == 2
    assert 55 < wait <= 60
    assert (await delivery.take_tokens(router, bucket, wanted=1, **options)).taken == 0
    paid = float(raw.hget(bucket, "paid"))  # type: ignore[arg-type]
    assert 295_000 < raw.pttl(bucket) <= 300_000, "a full bucket takes no memory"
    raw.hset(bucket, "paid", paid - 120_000)
    assert (await delivery.take_tokens(router, bucket, wanted=9, **options)).taken == 2, "two minutes have passed"
    raw.hset(bucket, "paid", paid + 1e9)
    taken, wait = await delivery.take_tokens(router, bucket, wanted=1, **options)
    assert (taken, 55 < wait <= 60) == (0, True), "the clock was set back: it fills from now on"
    raw.hset(bucket, "paid", float(raw.hget(bucket, "paid")) - 60_000)  # type: ignore[arg-type]
    assert (await delivery.take_tokens(router, bucket, wanted=1, **options)).taken == 1
    await router.aclose()


class SlowRedis:
    """Grant what is wanted, after a time."""

    def __init__(self, *seconds: float) -> None:
        self.seconds = list(seconds)
        self.calls = 0

    async def __call__(self, _interval: float, _capacity: int, wanted: int) -> Granted:
        self.calls += 1
        await asyncio.sleep(self.seconds.pop(0) if self.seconds else 0)
        return Granted(wanted, 0)


async def granted_after(redis: SlowRedis) -> int:
    """Return how many tokens there are when the request has ended."""
    tokens, granted = Tokens("A", Rate(100, 1), redis), asyncio.Event()
    tokens.count_waiting, tokens.on_granted = lambda: 50, granted.set
    tokens.request()
    await granted.wait()
    return tokens.in_hand


async def test_tokens_that_come_late_are_void_but_a_slow_redis_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "_VALID", 0.1)
    once = SlowRedis(0.2)
    assert (await granted_after(once), once.calls) == (10, 2)
    always = SlowRedis(0.2, 0.2)
    assert (await granted_after(always), always.calls) == (1, 2)


async def test_tokens_become_void(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "_VALID", 0.1)
    tokens, granted = Tokens("A", Rate(100, 1), SlowRedis()), asyncio.Event()
    tokens.count_waiting, tokens.on_granted = lambda: 50, granted.set
    tokens.request()
    await granted.wait()
    assert tokens.take()
    await until_holds(lambda: not tokens.in_hand, "they are void", deadline=1)
    assert not tokens.take()


# -- gates ----------------------------------------------------------------------------------------------------------------


class Key:
    """A key's queue: all that a gate sees of it."""

    def __init__(self) -> None:
        self.deliveries = [1]


def test_place_of_a_key_that_was_dropped_goes_to_the_next_one() -> None:
    ready: list[Key] = []
    gate = Gate(ready.append, concurrency=1)
    first, second, third, fourth = keys = [Key() for _ in range(4)]
    assert [gate.enters(key) for key in keys] == [True, False, False, False]
    second.deliveries.clear()  # while it waits
    gate.leave(attempted=True)
    assert ready == [third]
    third.deliveries.clear()  # after it was made ready
    gate.abandon(third)
    assert ready == [third, fourth]
    assert gate.enters(fourth)
    assert not gate.enters(first)


def test_paused_gate_lets_nobody_pass_also_who_was_made_ready_before() -> None:
    ready: list[Key] = []
    gate = Gate(ready.append, concurrency=1)
    first, second = Key(), Key()
    assert gate.enters(first)
    assert not gate.enters(second)
    gate.leave(attempted=True)
    gate.is_paused = True
    assert not gate.enters(second)
    assert not gate.enters(first)
    gate.resume()
    assert ready == [second, second]
    assert gate.enters(second)
    gate.leave(attempted=True)
    assert ready == [second, second, first]


# -- configuration --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "seconds"), [("10/s", 1), ("10/m", 60), ("10/h", 3600), ("10/d", 86_400)])
def test_rate_is_read(text: str, seconds: int) -> None:
    assert parse_rate(text) == Rate(10, seconds)


@pytest.mark.parametrize(
    "rate", ["", "10", "0/s", "-1/s", "10/w", "10 / s", "1.5/s", "9999999999/s", 10, None, "\N{FULLWIDTH DIGIT ONE}/s"]
)
def test_what_is_no_rate_is_refused(rate: object) -> None:
    assert parse_rate(rate) is None
