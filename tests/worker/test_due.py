"""Workers send what is due, each its share of the partitions, beside their other work."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import FlowContext, StateManager, queue, step
from motia_redis import state as state_trigger
from motia_redis._store import sweeping
from motia_redis._store.sweeping import Share, due_keys
from tests.support.clocks import set_namespace_clock
from tests.support.waiting import until, until_holds
from tests.support.workers import Recorder, record, working

if TYPE_CHECKING:
    import redis

    from tests.support.servers import RedisServer


async def test_worker_sends_delayed_messages_and_handles_them(state: StateManager) -> None:
    recorder = Recorder()
    async with working(state, record(recorder, queue("mail"))):
        before = time.time()
        message = await state.enqueue("mail", "later", delay=0.3)
        await state.enqueue("mail", "now")
        await recorder.wait(2)
    assert recorder.inputs == ["now", "later"]
    assert before + 0.3 <= time.time() <= before + 10
    assert recorder.contexts[1].trigger.message_id == message


async def test_handler_sends_a_message_to_itself_later_and_can_cancel_it(state: StateManager) -> None:
    seen: list[int] = []

    async def count(data: int, ctx: FlowContext) -> None:
        seen.append(data)
        if data < 3:
            await ctx.enqueue({"topic": "count", "data": data + 1}, delay=0.05)
            assert await ctx.state.cancel(await ctx.enqueue({"topic": "count", "data": 100}, delay=0.05))

    async with working(state, step({"name": "Count", "triggers": [queue("count")]}).handle(count)):
        await state.enqueue("count", 0)
        await until_holds(lambda: len(seen) == 4, "the fourth run")
    assert seen == [0, 1, 2, 3]


async def test_messages_with_one_key_are_handled_in_the_order_in_which_they_were_sent(state: StateManager) -> None:
    recorder = Recorder()
    async with working(state, record(recorder, queue("mail")), workers=2):
        at = time.time() + 0.3
        for number in range(20):
            await state.enqueue("mail", 19 - number, key="ann", at=at + (19 - number) / 1000)
        await recorder.wait(20)
    assert recorder.inputs == list(range(20))


async def test_worker_also_sends_messages_for_steps_of_other_applications(
    state: StateManager, raw: redis.Redis, namespace: str
) -> None:
    keyspace = await state.connect()
    async with working(state, record(Recorder(), state_trigger(scope="users"))):
        for number in range(40):
            await state.enqueue(f"topic {number}", number, delay=0.1)

        async def sent() -> bool:
            return sum(raw.xlen(stream) for stream in raw.scan_iter(f"{{{namespace}:*}}:topic:*")) == 40

        await until(sent, "all messages are sent")
    assert not any(raw.exists(keyspace.delayed(partition)) for partition in range(16))


async def test_worker_without_permission_to_send_goes_on_with_its_other_work(
    server: RedisServer, raw: redis.Redis, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    raw.execute_command("ACL", "SETUSER", namespace, "on", ">secret", "~*", "+@all", "-@sortedset")
    recorder = Recorder()
    try:
        url = server.url.replace("unix://", f"unix://{namespace}:secret@")
        async with StateManager(url, namespace=namespace) as state, working(state, record(recorder, state_trigger())):
            for number in range(20):
                await state.set("users", "ann", number)
                await recorder.wait(number + 1)
            await until_holds(lambda: any("due happens" in line.message for line in caplog.records), "the refusal is reported")
    finally:
        raw.execute_command("ACL", "DELUSER", namespace)
    (line,) = [line.message for line in caplog.records if "due happens" in line.message]
    assert "refuses calls, and nothing that is due happens" in line


@pytest.mark.parametrize("processes", [1, 2, 3, 20])
def test_each_partition_is_looked_at_in_time_by_one_process(processes: int) -> None:
    for partition in range(16):
        assert sum(Share(place, processes).is_first(partition) for place in range(processes)) == 1


@pytest.mark.parametrize("processes", [2, 5, 50])
def test_the_other_processes_together_look_as_often_as_one(processes: int) -> None:
    partition = sweeping._Partition(0, due_keys_of())
    total = 0.0
    for _ in range(1000):
        partition.schedule(None, Share(1, processes))
        total += partition.look_at - time.monotonic()
    assert 0.8 < total / 1000 / (processes - 1) / sweeping._RECHECK < 1.2


def due_keys_of() -> Any:
    from motia_redis._store.keyspace import Keyspace, Layout

    return due_keys(Keyspace("test", Layout()), 0)


async def test_what_waits_is_sent_when_the_clock_of_the_namespace_is_moved(state: StateManager) -> None:
    recorder = Recorder()
    async with working(state, record(recorder, queue("mail"))):
        await state.enqueue("mail", 1, delay=7 * 86_400)
        await set_namespace_clock(state, 7 * 86_400 + 1)
        await recorder.wait(1)
    assert recorder.contexts[0].trigger.attempt == 1
