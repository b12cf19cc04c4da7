"""The commands `dead list`, `show`, `retry` and `drop`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import redis

from motia_redis import StateManager, queue
from motia_redis import state as state_trigger
from motia_redis._admin.dead_letters import DeadLetters
from tests.support.commands import error_line, run_command
from tests.support.dead_letters import FailingHandler, failing_step, wait_for_dead_letters
from tests.support.workers import working

if TYPE_CHECKING:
    from tests.support.servers import RedisServer


async def test_dead_commands_list_show_retry_and_drop(state: StateManager, server: RedisServer, namespace: str) -> None:
    failing = FailingHandler()
    letters = DeadLetters(state)
    done = await run_command(server, namespace, "dead", "list")
    assert (done.returncode, done.stdout, done.stderr) == (
        0, f"no dead letters in namespace {namespace!r} of {server.url}\n", "",
    )  # fmt: skip
    done = await run_command(server, namespace, "dead", "list", "--json")
    assert json.loads(done.stdout) == []
    async with working(state, failing_step(failing, "Sick", state_trigger(), queue("mail"))):
        for number in range(4):
            await state.set("users", f"key{number}", {"n": number})
        await state.enqueue("mail", {"to": "a  b"})
        found = await wait_for_dead_letters(letters, 5)

        done = await run_command(server, namespace, "dead", "list")
        place, _, head, *rows = done.stdout.splitlines()
        assert place == f"namespace {namespace!r} of {server.url}"
        assert head.split() == ["ID", "STEP", "TIME", "EVENT", "OF", "ATTEMPTS", "ERROR"]
        assert [row.split()[0] for row in rows] == [letter.id for letter in found]
        assert "\x1b" not in done.stdout, "no control characters of an error reach the terminal"
        assert all(row.index("ValueError: cannot digest") == head.index("ERROR") for row in rows), "aligned"
        listed = json.loads((await run_command(server, namespace, "dead", "list", "--json", "--limit", "2")).stdout)
        assert [letter["id"] for letter in listed] == [letter.id for letter in found[:2]]
        done = await run_command(server, namespace, "dead", "list", "--limit", "2")
        assert "the oldest 2 of 5 dead letters" in done.stderr

        change = next(letter for letter in found if letter.key == "key2")
        message = next(letter for letter in found if letter.topic)
        shown = await run_command(server, namespace, "dead", "show", "--step", "Sick", change.id)
        assert 'new_value   {"n":2}' in shown.stdout
        shown = await run_command(server, namespace, "dead", "show", "--step", "Sick", message.id)
        assert 'data        {"to":"a  b"}' in shown.stdout
        shown = await run_command(server, namespace, "dead", "show", "--json", "--step", "Sick", change.id)
        facts = json.loads(shown.stdout)
        assert (facts["old_value"], facts["new_value"], facts["revision"]) == (None, {"n": 2}, change.revision)
        assert (facts["error_type"], facts["attempts"], facts["scope"], facts["key"]) == ("ValueError", 2, "users", "key2")

        failing.fixed = True
        done = await run_command(server, namespace, "dead", "retry", "--step", "Sick", change.id)
        assert done.returncode == 0
        assert done.stdout.startswith(f"retried 1 dead letter in {place}; it runs again after the newer events of its key")
        await failing.received.wait(1)
        assert failing.received.inputs[0].new_value == {"n": 2}
        done = await run_command(server, namespace, "dead", "drop", "--step", "Sick", message.id)
        assert (done.returncode, done.stdout) == (0, f"dropped 1 dead letter in {place}\n")
        done = await run_command(server, namespace, "dead", "retry", "--all")
        assert done.stdout.startswith(f"retried 3 dead letters in {place}; ")
        await failing.received.wait(4)
    assert await letters.count() == 0


async def test_drop_all_command_drops_nothing_unless_confirmed(state: StateManager, server: RedisServer, namespace: str) -> None:
    letters = DeadLetters(state)
    async with working(state, failing_step(FailingHandler(), "Sick", state_trigger())):
        await state.set("users", "ann", 1)
        await state.set("users", "bob", 1)
        await wait_for_dead_letters(letters, 2)
    for answer in ("", "n\n"):
        done = await run_command(server, namespace, "dead", "drop", "--all", input=answer)
        assert done.returncode == 2
        assert "error: nothing was dropped" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
    assert await letters.count() == 2
    done = await run_command(server, namespace, "dead", "drop", "--all", "--step", "Other", "--yes")
    assert done.stdout == f"dropped 0 dead letters in namespace {namespace!r} of {server.url}\n"
    done = await run_command(server, namespace, "dead", "drop", "--all", input="y\n")
    assert (done.returncode, done.stdout) == (0, f"dropped 2 dead letters in namespace {namespace!r} of {server.url}\n")
    assert await letters.count() == 0


async def test_dead_commands_print_one_line_for_unknown_ids_and_namespaces(
    state: StateManager, server: RedisServer, namespace: str
) -> None:
    hint = "check the id with `motia-redis dead list`"
    for verb in ("show", "retry", "drop"):
        done = await run_command(server, namespace, "dead", verb, "--step", "Sick", "0/1-1")
        assert error_line(done).startswith(f"step 'Sick' has no dead letter '0/1-1': {hint}")
    done = await run_command(server, namespace, "dead", "retry", "--step", "Sick", "0/1-1", "0/2-2")
    assert error_line(done) == f"step 'Sick' has no dead letter '0/1-1': {hint} (and 1 more error)"
    for arguments in (["retry"], ["drop"], ["retry", "0/1-1"], ["drop", "--all", "0/1-1"]):
        done = await run_command(server, namespace, "dead", *arguments)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    done = await run_command(server, "mistyped", "dead", "list")
    assert error_line(done).startswith(f"there is no namespace 'mistyped' of {server.url}: ")
    with redis.Redis.from_url(server.url) as client:
        assert not client.exists("mistyped:layout"), "looking creates nothing"
