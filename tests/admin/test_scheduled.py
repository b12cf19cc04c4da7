"""Listing and cancelling delayed messages, and the `scheduled` commands."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from motia_redis import queue
from motia_redis._admin.scheduled import Scheduled
from motia_redis._admin.status import read_status
from motia_redis._store.sweeping import due_keys
from motia_redis._tracing import trace
from motia_redis.errors import InvalidName
from tests.support.clocks import set_namespace_clock
from tests.support.commands import error_line, run_command
from tests.support.workers import Recorder, record, working

if TYPE_CHECKING:
    import redis

    from motia_redis import StateManager
    from tests.support.servers import RedisServer

TRACE = "0123456789abcdef0123456789abcdef"


async def test_messages_of_all_partitions_are_listed_by_their_time(state: StateManager) -> None:
    scheduled = Scheduled(state)
    assert (await scheduled.list(), await scheduled.count()) == ([], 0)
    before = time.time()
    sent = [await state.enqueue(f"topic {number % 7}", {"n": number}, delay=1000 - number) for number in range(100)]
    found = await scheduled.list(limit=1000)
    assert [message.id for message in found] == sent[::-1]
    assert [message.data["n"] for message in found] == list(range(100))[::-1]
    assert [message.due for message in found] == sorted(message.due for message in found)
    assert before + 901 <= found[0].due.timestamp() <= time.time() + 902
    assert [message.id for message in await scheduled.list(limit=3)] == sent[:-4:-1]
    of_topic = await scheduled.list("topic 3")
    assert [message.id for message in of_topic] == sent[3::7][::-1]
    assert {message.topic for message in of_topic} == {"topic 3"}
    assert (await scheduled.count(), await scheduled.count("topic 3"), await scheduled.count("other")) == (100, 14, 0)


async def test_a_message_is_described_as_it_was_sent(state: StateManager) -> None:
    with trace(TRACE):
        await state.enqueue("mäil:\n1", ["x" * 1000], key="a:b\nc", delay=1000)
    await state.enqueue("mäil:\n1", None, delay=2000)
    first, second = await Scheduled(state).list()
    assert (first.topic, first.key, first.trace_id, first.data) == ("mäil:\n1", "a:b\nc", TRACE, ["x" * 1000])
    assert (second.topic, second.key, second.trace_id, second.data) == ("mäil:\n1", None, None, None)


async def test_cancelled_messages_are_not_sent(state: StateManager, raw: redis.Redis, namespace: str) -> None:
    scheduled = Scheduled(state)
    sent = [await state.enqueue("mail" if number % 2 else "sms", number, delay=1000) for number in range(90)]
    assert await scheduled.cancel(sent[0])
    assert not await scheduled.cancel(sent[0])
    with pytest.raises(InvalidName):
        await scheduled.cancel("nonsense")
    assert await scheduled.cancel_all("mail") == 45
    assert await scheduled.count() == 44
    assert await scheduled.cancel_all() == 44
    assert await scheduled.cancel_all() == 0
    assert not raw.keys(f"{{{namespace}:*}}:due")


async def test_what_another_client_wrote_is_passed_over(state: StateManager, raw: redis.Redis) -> None:
    keyspace = await state.connect()
    keys = due_keys(keyspace, keyspace.partition(b"mail"))
    good = await state.enqueue("mail", 1, delay=1000)
    raw.zadd(keys.due, {"unknown:x": 1, "message:gone": 2, "message:odd": 3})
    raw.hset(keys.delayed, "odd", "not a record")
    assert [message.id for message in await Scheduled(state).list()] == [good]


async def test_commands_list_and_cancel(state: StateManager, server: RedisServer, namespace: str) -> None:
    done = await run_command(server, namespace, "scheduled", "list")
    assert done.stdout == f"no delayed messages in namespace '{namespace}' of {server.url}\n"
    first = await state.enqueue("mail", {"to": "ann", "odd": "\x1b[31m"}, key="ann", delay=1000)
    second = await state.enqueue("mail", [2], delay=2000)
    third = await state.enqueue("sms", 3, delay=3000)
    done = await run_command(server, namespace, "scheduled", "list")
    place, empty, head, *rows = done.stdout.splitlines()
    assert (place, empty) == (f"namespace '{namespace}' of {server.url}", "")
    assert head.split() == ["ID", "DUE", "TOPIC", "KEY", "DATA"]
    assert [row.split()[0] for row in rows] == [first, second, third]
    assert rows[0].split()[3:5] == ["mail", "ann"]
    assert "\x1b" not in done.stdout
    done = await run_command(server, namespace, "scheduled", "list", "--topic", "mail", "--limit", "1", "--json")
    (told,) = json.loads(done.stdout)
    assert abs(datetime.fromisoformat(told.pop("due")).timestamp() - time.time() - 1000) < 60
    data = {"to": "ann", "odd": "\x1b[31m"}
    assert told == {"id": first, "topic": "mail", "key": "ann", "trace_id": None, "data": data}
    done = await run_command(server, namespace, "scheduled", "list", "--limit", "1")
    assert done.stderr == "these are the first 1 of 3 delayed messages; use --limit to show more\n"

    done = await run_command(server, namespace, "scheduled", "cancel", first)
    assert done.stdout == f"cancelled 1 delayed message in namespace '{namespace}' of {server.url}\n"
    done = await run_command(server, namespace, "scheduled", "cancel", first, second)
    assert done.stdout.startswith("cancelled 1 delayed message in")
    assert error_line(done) == f"message {first} does not wait: it was sent or cancelled before"
    assert "a message id is what enqueue returns" in error_line(await run_command(server, namespace, "scheduled", "cancel", "x"))
    done = await run_command(server, namespace, "scheduled", "cancel", "--all", input="n\n")
    assert "nothing was cancelled: the question was not answered with yes" in done.stderr
    done = await run_command(server, namespace, "scheduled", "cancel", "--all", "--topic", "mail", "--yes")
    assert done.stdout.startswith("cancelled 0 delayed messages in")
    done = await run_command(server, namespace, "scheduled", "cancel", "--all", input="y\n")
    assert done.stdout.startswith("cancelled 1 delayed message in")
    for wrong in ([], [first, "--all"], [first, "--topic", "mail"]):
        assert (await run_command(server, namespace, "scheduled", "cancel", *wrong)).returncode == 2


async def test_status_shows_what_waits_and_that_nobody_sends_it(state: StateManager, server: RedisServer, namespace: str) -> None:
    found = await read_status(state)
    assert (found.delayed, found.next_due_in) == (0, None)
    await state.enqueue("mail", 1, delay=1000)
    await state.enqueue("sms", 1, delay=2000)
    found = await read_status(state)
    assert found.delayed == 2
    assert 900 < (found.next_due_in or 0) <= 1001
    assert (
        "2 delayed messages waiting for their time: motia-redis scheduled list"
        in (await run_command(server, namespace, "status")).stdout.splitlines()
    )
    await set_namespace_clock(state, 1010)
    found = await read_status(state)
    assert -60 < (found.next_due_in or 0) < -5
    assert (
        "2 delayed messages waiting for their time: no process sends what is due: start a worker"
        in (await run_command(server, namespace, "status")).stdout.splitlines()
    )
    recorder = Recorder()
    async with working(state, record(recorder, queue("mail"))):
        await recorder.wait(1)
    assert (await read_status(state)).delayed == 1
