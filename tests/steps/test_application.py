"""An application: which sets of steps are rejected, and how triggers are sorted by kind."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from motia_redis._steps.application import Application
from motia_redis._steps.definitions import step
from motia_redis._steps.triggers import cron, http, queue, state
from motia_redis.errors import StepError


def handler(input: Any) -> None: ...


def decorated(function: Any) -> Any:
    @functools.wraps(function)
    def call(input: Any) -> None: ...

    return call


class Handler:
    def __call__(self, input: Any) -> None: ...


def line_of(function: Any) -> str:
    """Return what an error says about the place of a function."""
    path = Path(__file__)
    return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{function.__code__.co_firstlineno}"


@pytest.mark.parametrize(
    ("function", "place"),
    [
        (handler, line_of(handler)),
        (decorated(handler), line_of(handler)),
        (functools.partial(decorated(handler)), line_of(handler)),
        (Handler(), line_of(Handler.__call__)),
        (print, "module builtins"),
    ],
)
def test_two_steps_of_one_name_are_rejected_with_their_places(function: Any, place: str) -> None:
    with pytest.raises(StepError) as error:
        Application((made("A", queue("t")), step({"name": "A", "triggers": [queue("u")]}).handle(function)))
    assert str(error.value) == f"two steps are named 'A' ({line_of(handler)} and {place}); give each step a name of its own"


def made(name: str, *triggers: Any) -> Any:
    return step({"name": name, "triggers": list(triggers)}).handle(handler)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (http("GET", "/users/:id"), http("get", "/users/:name")),
        (http("GET", "/users"), http("GET", "/users/")),
        (http("GET", "/a b"), http("GET", "/a%20b")),
    ],
)
def test_two_routes_that_answer_the_same_requests_are_rejected(one: Any, two: Any) -> None:
    with pytest.raises(StepError, match=r"step 'B': GET .* is a route of step 'A' already \(.*\.py:\d+ and .*\.py:\d+\)"):
        Application((made("A", one), made("B", two)))
    with pytest.raises(StepError, match=r"step 'A': GET .* is a route of step 'A' already"):
        Application((made("A", one, two),))


def test_routes_that_differ_in_method_or_path_are_accepted_together() -> None:
    Application((
        made("A", http("GET", "/users/:id"), http("POST", "/users/:id")),
        made("B", http("GET", "/users/me"), http("GET", "/users/:id/x")),
    ))  # fmt: skip


def test_definition_without_handler_is_rejected_with_its_name() -> None:
    with pytest.raises(StepError, match="step 'A' has no handler"):
        Application((step({"name": "A", "triggers": [queue("t")]}),))  # type: ignore[arg-type]


def test_what_is_no_complete_step_is_rejected_with_what_to_give_instead() -> None:
    definition = step({"name": "A", "triggers": [queue("t")]})
    definition.handle(handler)
    with pytest.raises(StepError, match=r"step 'A': an application takes the step that .handle\(fn\) returned"):
        Application((definition,))  # type: ignore[arg-type]
    with pytest.raises(StepError, match="takes steps, not <built-in function print>"):
        Application((print,))  # type: ignore[arg-type]


def test_triggers_are_sorted_by_kind_and_keep_the_order_of_steps() -> None:
    a = made("A", http("GET", "/"), state(scope="s"), queue("t"))
    b = made("B", queue("t"), queue("u"))
    c = made("C", cron("@daily"))
    application = Application((a, b, c))
    assert application.http_routes == ((http("GET", "/"), a),)
    assert application.state_subscriptions == ((state(scope="s"), a),)
    assert application.queue_subscriptions == ((queue("t"), a), (queue("t"), b), (queue("u"), b))
    assert application.http_steps == (a,)
    assert application.cron_subscriptions == ((cron("@daily"), c),)
    assert application.worker_steps == (a, b, c)
