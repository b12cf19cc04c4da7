"""Every code block of the reference page runs with `motia_redis` in place of `motia`."""

from __future__ import annotations

import ast
import inspect
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from motia_redis import FlowContext, StateManager, StateTriggerInput, stateManager
from motia_redis._steps.context import TriggerInfo
from motia_redis._steps.loading import load_application
from motia_redis._steps.logs import Logger
from tests.support.applications import Command
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.support.servers import RedisServer

PAGE = (
    (Path(__file__).parent.parent / "data" / "motia-state-manager.txt")
    .read_text()
    .replace("from motia import", "from motia_redis import")
)
CODE_STARTS = ("from motia_redis import", "async def handler")
PROSE = re.compile(r"^(?:[A-Z][\w ]*|get\(\)|\w+\(\))$")


def snippets() -> list[str]:
    """Return the code blocks of the page: the longest runs of lines from a known first line that are Python and not prose."""
    lines = PAGE.splitlines()
    found, start = [], 0
    while start < len(lines):
        if not lines[start].startswith(CODE_STARTS):
            start += 1
            continue
        prose = next((n for n in range(start, len(lines)) if PROSE.match(lines[n])), len(lines))
        end = next(end for end in range(prose, start, -1) if parses("\n".join(lines[start:end])))
        found.append("\n".join(lines[start:end]).rstrip() + "\n")
        start = end
    return found


def parses(code: str) -> bool:
    """Return whether the code is valid Python, with `await` allowed at the top level."""
    try:
        compile(code, "page", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError:
        return False
    return True


SNIPPETS = snippets()


def context(state: StateManager) -> FlowContext:
    return FlowContext(state=state, logger=Logger("Page"), trace_id="0" * 32, trigger=TriggerInfo(type="http"), step_name="Page")


def test_every_line_of_code_on_the_page_is_in_a_snippet() -> None:
    assert len(SNIPPETS) == 11
    lines_of_code = [line for line in PAGE.splitlines() if re.search(r"\b(await|import|async def handler|step\()\b", line)]
    everywhere = "".join(SNIPPETS)
    prose = "Or import the global instance:"
    missing = [line for line in lines_of_code if line not in everywhere and "->" not in line and line != prose]
    assert missing == []


@pytest.mark.parametrize("code", SNIPPETS[:10], ids=lambda code: code.splitlines()[-1][:40])
async def test_each_snippet_runs_with_and_without_the_stored_user(
    state: StateManager, monkeypatch: pytest.MonkeyPatch, server: RedisServer, namespace: str, code: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setenv("MOTIA_REDIS_URL", server.url)
    monkeypatch.setenv("MOTIA_REDIS_NAMESPACE", namespace)
    caplog.set_level(logging.INFO)
    for filled in (True, False):
        await state.clear("users")
        if filled:
            await state.set("users", "user-123", {"id": "user-123", "name": "Alice", "temp_token": "x", "login_count": 1})
            await state.set("sessions", "s", {})
        space: dict[str, Any] = {"FlowContext": FlowContext, "__name__": "page"}
        running = eval(compile(code, "page", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), space)
        if inspect.isawaitable(running):
            await running
        if "handler" in space:
            change = StateTriggerInput(
                group_id="users", item_id="a", old_value=None, new_value=1, event_type="state:created", revision="1-0"
            )
            await space["handler"](change, context(state))
    await stateManager.close()


async def test_update_snippet_stores_the_value_that_the_page_shows(state: StateManager) -> None:
    code = next(code for code in SNIPPETS if "login_count" in code and "CreateUser" not in code)
    space: dict[str, Any] = {"FlowContext": FlowContext}
    exec(code, space)
    await state.set("users", "user-123", {"login_count": 41, "temp_token": "x"})
    await space["handler"](None, context(state))
    assert await state.get("users", "user-123") == {"login_count": 42, "last_login": "2024-01-15T14:30:00Z", "verified": True}


@pytest.mark.parametrize("name", ["get", "set", "update", "delete", "list", "list_groups", "clear"])
def test_signatures_match_the_page(name: str) -> None:
    declared = re.search(rf"^async def {name}\(self(.*)\) -> (.*)$", PAGE, re.MULTILINE)
    assert declared is not None
    wanted = re.findall(r"(\w+): ", declared[1])
    parameters = list(inspect.signature(getattr(StateManager, name)).parameters.values())[1:]
    assert [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty] == wanted
    assert inspect.iscoroutinefunction(getattr(StateManager, name))


def test_example_equals_the_page_except_for_the_import() -> None:
    example = (Path(__file__).parent.parent.parent / "examples" / "users.py").read_text()
    assert example == SNIPPETS[10]


def test_step_without_handle_uses_the_handler_of_its_module(tmp_path: Path) -> None:
    code = next(code for code in SNIPPETS if "my_step" in code)
    (tmp_path / "change_step.py").write_text(code)
    application = load_application([str(tmp_path / "change_step.py")])
    (only,) = application.steps
    assert only.name == "OnUserChange"
    assert only.handler is not None


async def test_complete_example_works_over_http(server: RedisServer, state: StateManager, namespace: str, tmp_path: Path) -> None:
    example = str(Path(__file__).parent.parent.parent / "examples" / "users.py")
    messages: list[Any] = []
    command = ["run", example, "--port", "0", "--redis", server.url, "--namespace", namespace]
    with Command(tmp_path, *command, ready="serving") as process:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{process.port}") as client:
            created = await client.post("/users", json={"name": "Alice", "email": "alice@example.com"})
            assert created.status_code == 201
            user = created.json()
            assert user["id"] == f"user-{created.headers['x-trace-id'][:8]}"
            logged_in = await client.post(f"/users/{user['id']}/login")
            assert logged_in.status_code == 200
            assert logged_in.json() == user | {"login_count": 1, "last_login": logged_in.headers["x-trace-id"]}
            assert (await client.post("/users/nobody/login")).status_code == 404
            assert (await client.get("/users")).json() == {"users": [logged_in.json()], "count": 1}

        router = await state.open_router()
        keyspace = await state.connect()

        async def enqueued() -> bool:
            for stream in keyspace.topic_streams("user.changed"):
                messages.extend(await router.execute(stream, "XRANGE", stream, "-", "+"))
            return bool(messages)

        await until(enqueued, "the trigger enqueues user.changed", deadline=60)
        await router.aclose()
        ((_, fields),) = messages
        assert fields[b"data"] == b'{"user_id":"%s","login_count":1}' % user["id"].encode()
        assert fields[b"trace"].decode() == logged_in.headers["x-trace-id"], "the message has another trace id than the request"
        assert process.stop() == 0
