"""`redeliver` and `crash_before_ack` show whether a handler is idempotent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from motia_redis import cron, queue, state, step
from motia_redis.testing import application
from tests.support.workers import Recorder, record

if TYPE_CHECKING:
    from tests.support.servers import RedisServer

COUNT = [{"op": "increment", "path": "/n", "value": 1}]


def counting(name: str, **config: Any) -> Any:
    """Return a step that counts its messages, and sends one on."""

    async def handler(data: Any, ctx: Any) -> None:
        await ctx.state.update("counts", name, COUNT)
        await ctx.enqueue({"topic": f"from {name}", "data": data})

    return step({"name": name, "triggers": [queue("topic")], **config}).handle(handler)


async def test_redelivery_shows_which_handler_is_not_idempotent(server: RedisServer) -> None:
    followed = Recorder()
    steps = [counting("Once", effects_once=True), counting("Twice"), record(followed, queue("from Once"), queue("from Twice"))]
    async with application(*steps, url=server.url) as app:
        await app.state.enqueue("topic", 1)
        await app.settle()
        assert await app.state.items("counts") == {"Once": {"n": 1}, "Twice": {"n": 1}}
        await app.redeliver()
        assert await app.state.items("counts") == {"Once": {"n": 1}, "Twice": {"n": 2}}
        assert len(await app.enqueued("from Once")) == 1
        assert len(await app.enqueued("from Twice")) == 2
        assert len(followed.inputs) == 2 + 3  # the third is what Twice sent in the redelivery


async def test_redelivery_keeps_order_revisions_and_ids(server: RedisServer) -> None:
    seen: list[tuple[Any, ...]] = []

    @step({"name": "Step", "triggers": [state(scope="s")]})
    async def handler(input: Any, ctx: Any) -> None:
        seen.append((input.new_value, input.revision, ctx.id("request")))

    async with application(handler, url=server.url) as app:
        for number in range(5):
            await app.state.set("s", "k", number)
        await app.settle()
        await app.redeliver()
        assert seen[:5] == seen[5:]
        assert [each[0] for each in seen] == [0, 1, 2, 3, 4] * 2


async def test_redelivery_can_be_repeated_and_settles_first(server: RedisServer) -> None:
    recorder = Recorder()
    async with application(record(recorder, queue("topic")), url=server.url) as app:
        await app.state.enqueue("topic", 1)
        await app.redeliver()
        assert recorder.inputs == [1, 1]
        await app.redeliver()
        assert recorder.inputs == [1, 1, 1]


async def test_dead_letters_and_entries_that_wait_are_not_redelivered(server: RedisServer) -> None:
    attempts: list[str] = []

    @step({"name": "Step", "triggers": [queue("topic")], "max_attempts": 2, "backoff": 100, "max_backoff": 100})
    async def handler(data: str, ctx: Any) -> None:
        attempts.append(data)
        if data != "good":
            raise ValueError(data)

    async with application(handler, url=server.url) as app:
        await app.state.enqueue("topic", "dead")
        await app.advance(100)
        await app.state.enqueue("topic", "waits")
        await app.state.enqueue("topic", "good")
        await app.settle()
        assert sorted(attempts) == ["dead", "dead", "good", "waits"]
        await app.redeliver()
        assert sorted(attempts) == ["dead", "dead", "good", "good", "waits"]
        await app.advance(100)
        assert sorted(attempts) == ["dead", "dead", "good", "good", "waits", "waits"]
        assert [letter.data for letter in await app.dead_letters()] == ["dead", "waits"]


async def test_after_a_crash_everything_of_the_call_is_handled_again(server: RedisServer) -> None:
    steps = [counting("Once", effects_once=True), counting("Twice")]
    async with application(*steps, url=server.url) as app:
        await app.state.enqueue("topic", 1)
        await app.settle()
        app.crash_before_ack()
        await app.settle()  # nothing to handle: it waits for the next call
        await app.state.enqueue("topic", 2)
        await app.settle()
        assert await app.state.items("counts") == {"Once": {"n": 2}, "Twice": {"n": 3}}
        await app.state.enqueue("topic", 3)
        await app.settle()
        assert await app.state.items("counts") == {"Once": {"n": 3}, "Twice": {"n": 4}}


async def test_crash_while_time_passes_is_after_what_falls_due(server: RedisServer) -> None:
    recorder = Recorder()
    async with application(record(recorder, queue("topic"), cron("@yearly")), url=server.url) as app:
        await app.state.enqueue("topic", "later", delay=60)
        app.crash_before_ack()
        await app.advance(90)
        assert recorder.inputs == ["later", "later"]


async def test_failed_attempt_is_recorded_before_a_crash(server: RedisServer) -> None:
    attempts = []

    @step({"name": "Step", "triggers": [queue("topic")], "max_attempts": 3, "backoff": 1})
    async def handler(data: str, ctx: Any) -> None:
        attempts.append(ctx.trigger.attempt)
        if len(attempts) == 1:
            raise ValueError(data)

    async with application(handler, url=server.url) as app:
        await app.state.enqueue("topic", "x")
        await app.settle()
        app.crash_before_ack()
        await app.advance(1)
        assert attempts == [1, 2, 1]
