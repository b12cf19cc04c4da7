"""The example application, tested as its users would test theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import ApiRequest, load_application
from motia_redis.errors import StateError
from motia_redis.testing import App, application, run_handler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.servers import RedisServer

EXAMPLES = ("examples/users.py", "examples/audit_step.py")
STEPS: dict[str, Any] = {each.name: each for each in load_application(EXAMPLES).steps}


@pytest.fixture
async def app(server: RedisServer) -> AsyncIterator[App]:
    async with application(*EXAMPLES, url=server.url) as app:
        yield app


async def create_user(app: App) -> str:
    response = await app.request("POST", "/users", json={"name": "Ada", "email": "ada@example.com"})
    assert response.status in (200, 201)
    (user_id,) = await app.state.keys("users")
    return user_id


async def test_login_is_counted_and_announced(app: App) -> None:
    user = await create_user(app)
    await app.settle()
    assert await app.enqueued() == []
    for count in (1, 2):
        response = await app.request("POST", f"/users/{user}/login")
        assert (response.status, response.body["login_count"]) == (200, count)
    await app.settle()
    assert [message.data for message in await app.enqueued("user.changed")] == [
        {"user_id": user, "login_count": 1}, {"user_id": user, "login_count": 2},
    ]  # fmt: skip
    firings = await app.state.items("demo.firings")
    assert {login: value["firings"] for login, value in firings.items()} == {f"{user} 1": 1, f"{user} 2": 1}
    assert await app.dead_letters() == []


async def test_login_of_an_unknown_user_changes_nothing(app: App) -> None:
    assert (await app.request("POST", "/users/nobody/login")).status == 404
    assert await app.changes() == []


async def test_redelivery_shows_that_the_counters_of_the_example_are_not_idempotent(app: App) -> None:
    user = await create_user(app)
    await app.request("POST", f"/users/{user}/login")
    await app.settle()
    await app.redeliver()
    assert (await app.state.get("demo.firings", f"{user} 1"))["firings"] == 2


async def test_list_handler_reads_the_state() -> None:
    with pytest.raises(StateError, match="ListUsers"):
        await run_handler(STEPS["ListUsers"], ApiRequest(path="/users"))
