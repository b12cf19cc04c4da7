"""Options of http triggers: what is accepted, and what a step rejects."""

from __future__ import annotations

import functools
from typing import Any

import pytest

import motia_redis
from motia_redis._steps.definitions import step
from motia_redis._steps.http_options import QueryParam
from motia_redis._steps.triggers import HttpTrigger, http
from motia_redis.errors import StepError


def made(**options: Any) -> HttpTrigger:
    """Return the trigger of a step with these options."""
    (trigger,) = step({"name": "S", "triggers": [http("POST", "/", **options)]}).settings.http_triggers
    return trigger


def around(request: Any, ctx: Any, next: Any) -> Any:
    return next()


class Around:
    async def __call__(self, request: Any, ctx: Any, next: Any) -> Any:
        return await next()


def test_api_is_another_name_for_http() -> None:
    assert motia_redis.api("get", "/a") == http("GET", "/a") == HttpTrigger("GET", "/a")


def test_trigger_with_all_options_is_accepted_and_has_a_hash() -> None:
    trigger = made(
        body_schema={"type": "object"},
        response_schema={200: int, "404": {"type": "object"}, 204: None},
        query_params=[QueryParam("page", "which page"), {"name": "size", "description": "how many"}, {"name": "sort"}],
        middleware=[around, Around(), lambda *args: args[2](), functools.partial(around), Around().__call__],
        condition=lambda request: True,
    )
    assert list(trigger.response_schema) == [200, 404, 204]
    assert trigger.query_params == (QueryParam("page", "which page"), QueryParam("size", "how many"), QueryParam("sort"))
    assert len(trigger.middleware) == 5
    assert len({trigger, http("POST", "/")}) == 2


def test_options_that_are_none_are_left_out() -> None:
    trigger = made(body_schema=None, response_schema=None, query_params=None, middleware=None, condition=None)
    assert trigger == http("POST", "/")


def generator(request: Any, ctx: Any, next: Any) -> Any:
    yield next()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"body_schema": "User"}, "'body_schema' of an http trigger must be a JSON Schema as a dict"),
        ({"body_schema": {"type": 1}}, "'body_schema' of an http trigger is no valid JSON Schema: at '/type'"),
        ({"response_schema": int}, "'response_schema' of an http trigger must be a dict of a schema for each status"),
        ({"response_schema": {"ok": int}}, "a status in 'response_schema' of an http trigger must be an integer from 200 to 599"),
        ({"response_schema": {True: int}}, "a status in 'response_schema'"),
        ({"response_schema": {100: int}}, "a status in 'response_schema'"),
        ({"response_schema": {200: "int"}}, "'response_schema' of an http trigger, status 200, must be a JSON Schema"),
        ({"query_params": QueryParam("a")}, "'query_params' of an http trigger must be a list"),
        ({"query_params": ["a"]}, "a query parameter of an http trigger must be a QueryParam"),
        ({"query_params": [{"name": "a", "type": "int"}]}, "a query parameter of an http trigger must be a QueryParam"),
        ({"query_params": [{"description": "a"}]}, "a query parameter of an http trigger must be a QueryParam"),
        ({"query_params": [QueryParam("")]}, "a query parameter of an http trigger must have a name and a description"),
        ({"query_params": [{"name": 1}]}, "a query parameter of an http trigger must have a name and a description"),
        ({"query_params": [QueryParam("a"), {"name": "a"}]}, "the query parameter 'a' stands twice in 'query_params'"),
        ({"middleware": around}, "'middleware' of an http trigger must be a list of functions"),
        ({"middleware": ["auth"]}, "a middleware of an http trigger must be a function, not 'auth'"),
        ({"middleware": [lambda request, ctx: None]}, "must take (request, ctx, next), not (request, ctx)"),
        ({"middleware": [lambda r, c, n, more: None]}, "must take (request, ctx, next)"),
        ({"middleware": [generator]}, "a middleware of an http trigger must return, not yield"),
        ({"condition": True}, "the condition of an http trigger must be a function, not True"),
        ({"condition": lambda: True}, "the condition of an http trigger must take (input, ctx) or (input)"),
    ],
)
def test_option_that_does_not_fit_is_rejected_by_the_step(options: dict[str, Any], says: str) -> None:
    with pytest.raises(StepError) as raised:
        made(**options)
    assert str(raised.value).startswith("step 'S': ")
    assert says in str(raised.value)
