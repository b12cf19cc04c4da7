"""Steps: what a configuration accepts, and how handlers are bound."""

from __future__ import annotations

from typing import Any

import pytest

from motia_redis._steps.definitions import Step, step
from motia_redis._steps.triggers import HttpTrigger, QueueTrigger, StateTrigger, cron, http, queue, state
from motia_redis.errors import StepError


def config(**extra: Any) -> dict[str, Any]:
    return {"name": "S", "triggers": [queue("t")], **extra}


# -- configuration ----------------------------------------------------------------------------------------------------


def test_settings_of_a_step_are_those_of_its_configuration() -> None:
    definition = step({
        "name": "On user.change_1-a",
        "description": "what it does",
        "triggers": [http("post", "/users/:id"), state(scope="users", key="u1"), queue("user.changed")],
        "enqueues": ["a", "b"],
        "flows": ["f"],
        "max_attempts": 2,
        "backoff": 1,
        "max_backoff": 3,
        "timeout": 2.5,
    })  # fmt: skip
    made = definition.settings
    assert made.name == "On user.change_1-a"
    assert made.description == "what it does"
    assert made.triggers == (
        HttpTrigger("POST", "/users/:id"),
        StateTrigger(None, "users", "u1"),
        QueueTrigger("user.changed"),
    )
    assert made.http_triggers == made.triggers[:1]
    assert made.state_triggers == made.triggers[1:2]
    assert made.queue_triggers == made.triggers[2:]
    assert (made.enqueues, made.flows) == (("a", "b"), ("f",))
    assert (made.max_attempts, made.backoff, made.max_backoff, made.timeout) == (2, 1, 3, 2.5)


def test_delivery_options_that_are_left_out_have_the_documented_defaults() -> None:
    made = step(config()).settings
    assert (made.max_attempts, made.backoff, made.max_backoff, made.timeout) == (5, 0.5, 30.0, None)


def test_pauses_double_up_to_the_longest_pause_at_any_attempt() -> None:
    made = step(config(backoff=0.5, max_backoff=3)).settings
    assert [made.pause(attempt) for attempt in (1, 2, 3, 4, 5, 100_000)] == [0.5, 1.0, 2.0, 3.0, 3.0, 3.0]


def test_backoff_over_the_default_longest_pause_raises_the_longest_pause() -> None:
    assert step(config(backoff=60)).settings.pause(3) == 60


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"retries": 3}, "unknown key 'retries'; accepted are name, triggers"),
        ({"description": 3}, "'description' must be text"),
        ({"enqueues": "topic"}, "'enqueues' must be a list of topics"),
        ({"enqueues": [""]}, "'enqueues' must be a list of topics"),
        ({"flows": [1]}, "'flows' must be a list"),
        ({"max_attempts": 0}, "'max_attempts' must be an integer of at least 1"),
        ({"max_attempts": True}, "'max_attempts' must be an integer"),
        ({"max_attempts": 1.5}, "'max_attempts' must be an integer"),
        ({"backoff": 0}, "'backoff' must be a number of seconds over 0"),
        ({"backoff": float("nan")}, "'backoff' must be a number"),
        ({"max_backoff": float("inf")}, "'max_backoff' must be a number"),
        ({"backoff": 2, "max_backoff": 1}, "'max_backoff' (1) must not be under 'backoff' (2)"),
        ({"timeout": "1"}, "'timeout' must be a number of seconds over 0, or None"),
        ({"triggers": []}, "at least one http(...), state(...), queue(...) or cron(...)"),
        ({"triggers": [cron("61 * * * *")]}, "the minute of a cron trigger must be 0 to 59"),
        ({"triggers": [cron("@daily", timezone="Mars")]}, "IANA time zone such as 'Europe/Berlin', not 'Mars'"),
        ({"triggers": [cron("@daily", missed="all")]}, "'missed' of a cron trigger must be one of 'once', 'skip', not 'all'"),
        ({"triggers": [cron("0 0 * * *"), cron("@daily", missed="skip")]}, "cron @daily (UTC) stands twice in 'triggers'"),
        ({"triggers": queue("t")}, "'triggers' must be a list"),
        ({"triggers": [{"type": "http"}]}, "is no trigger; accepted are http(...), state(...), queue(...)"),
        ({"triggers": [http("FETCH", "/")]}, "GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS, not 'FETCH'"),
        ({"triggers": [http("GET", "users")]}, "begins with a slash, not 'users'"),
        ({"triggers": [http("GET", None)]}, "begins with a slash, not None"),  # type: ignore[arg-type]
        ({"triggers": [http("GET", "/users?x=1")]}, "no query"),
        ({"triggers": [http("GET", "/users//x")]}, "no empty segment"),
        ({"triggers": [http("GET", "/users/:")]}, "not ':' in '/users/:'"),
        ({"triggers": [http("GET", "/users/:id.json")]}, "not ':id.json'"),
        ({"triggers": [http("GET", "/:id/of/:id")]}, "stands twice"),
        ({"triggers": [state(key="k")]}, "key='k' needs scope="),
        ({"triggers": [state(scope="")]}, "scope of a state trigger must be text that is not empty"),
        ({"triggers": [state("users")]}, "condition of a state trigger must be a function, not 'users'"),  # type: ignore[arg-type]
        ({"triggers": [state(lambda a, b, c: True)]}, "condition of a state trigger must take (input, ctx) or (input)"),
        ({"triggers": [queue("")]}, "topic of a queue trigger"),
        ({"triggers": [queue(3)]}, "not 3"),  # type: ignore[arg-type]
    ],
)
def test_configuration_that_does_not_fit_is_rejected_with_the_name_of_the_step(bad: dict[str, Any], says: str) -> None:
    with pytest.raises(StepError) as caught:
        step(config(**bad))
    assert says in str(caught.value)
    assert str(caught.value).startswith("step 'S': ")


@pytest.mark.parametrize("name", [None, "", 3, "a\nb", "a\x00", "a:b", "a{b}", " a", "a ", "a" * 129])
def test_name_that_could_not_be_a_consumer_group_is_rejected(name: object) -> None:
    with pytest.raises(StepError, match="'name' must be 1 to 128 letters"):
        step({"name": name, "triggers": [queue("t")]})


def test_configuration_that_is_no_dict_is_rejected() -> None:
    with pytest.raises(StepError, match="from a dict"):
        step("S")  # type: ignore[arg-type]


# -- binding ----------------------------------------------------------------------------------------------------------


def test_handle_returns_the_complete_step_and_the_definition_keeps_it() -> None:
    definition = step(config(max_attempts=2))
    assert definition.step is None
    bound = definition.handle(print)
    assert bound.handler is print
    assert (bound.name, bound.max_attempts) == ("S", 2)
    assert definition.step is bound


def test_decorated_handler_is_a_step_that_is_called_like_the_handler() -> None:
    @step(config())
    def double(input: int) -> int:
        return input * 2

    assert isinstance(double, Step)
    assert double(21) == double(input=21) == 42


def test_second_handler_is_rejected() -> None:
    definition = step(config())
    definition.handle(print)
    with pytest.raises(StepError, match="'S' has a handler already"):
        definition.handle(repr)


@pytest.mark.parametrize("bound", [True, False])
def test_definition_that_is_called_like_a_handler_raises_what_to_call_instead(bound: bool) -> None:
    definition = step(config())
    if bound:
        definition.handle(print)
    with pytest.raises(StepError, match="step 'S': a definition cannot be called; call the handler"):
        definition({"a": 1}, None)  # type: ignore[arg-type]


async def yielding(input: Any) -> Any:
    yield input


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (3, "must be a function, not 3"),
        (lambda: None, r"must take \(input, ctx\) or \(input\), not \(\)"),
        (lambda a, b, c: None, "must take"),
        (lambda a, *, needed: None, "must take"),
        (yielding, "must return, not yield"),
    ],
)
def test_handler_that_could_not_be_called_is_rejected_when_bound(handler: Any, says: str) -> None:
    with pytest.raises(StepError, match=f"step 'S': the handler {says}"):
        step(config()).handle(handler)


def test_sync_handler_is_rejected_by_a_step_with_a_timeout() -> None:
    def blocking(input: Any) -> None:
        """Runs in a thread."""

    with pytest.raises(StepError, match="'timeout' needs an async handler"):
        step({"name": "Slow", "triggers": [queue("t")], "timeout": 1}).handle(blocking)
