"""An application: a checked set of steps, with their triggers by kind."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motia_redis._steps.definitions import Step, StepDefinition
from motia_redis.errors import StepError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from motia_redis._steps.stream_triggers import StreamTrigger
    from motia_redis._steps.triggers import CronTrigger, HttpTrigger, QueueTrigger, StateTrigger


@dataclass(frozen=True)
class Application:
    """Hold steps that belong together, in their order.

    Raises StepError for two steps with one name or one HTTP route, and for a step without a handler.
    """

    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        for step in self.steps:
            _check_is_complete(step)
        for problem in application_problems(self.steps):
            raise problem

    @cached_property
    def http_routes(self) -> tuple[tuple[HttpTrigger, Step], ...]:
        """Every HTTP trigger with its step."""
        return tuple((trigger, step) for step in self.steps for trigger in step.http_triggers)

    @cached_property
    def state_subscriptions(self) -> tuple[tuple[StateTrigger, Step], ...]:
        """Every state trigger with its step."""
        return tuple((trigger, step) for step in self.steps for trigger in step.state_triggers)

    @cached_property
    def queue_subscriptions(self) -> tuple[tuple[QueueTrigger, Step], ...]:
        """Every queue trigger with its step."""
        return tuple((trigger, step) for step in self.steps for trigger in step.queue_triggers)

    @cached_property
    def cron_subscriptions(self) -> tuple[tuple[CronTrigger, Step], ...]:
        """Every cron trigger with its step."""
        return tuple((trigger, step) for step in self.steps for trigger in step.cron_triggers)

    @cached_property
    def stream_subscriptions(self) -> tuple[tuple[StreamTrigger, Step], ...]:
        """Every stream trigger with its step."""
        return tuple((trigger, step) for step in self.steps for trigger in step.stream_triggers)

    @cached_property
    def http_steps(self) -> tuple[Step, ...]:
        """The steps with an HTTP trigger."""
        return tuple(step for step in self.steps if step.http_triggers)

    @cached_property
    def worker_steps(self) -> tuple[Step, ...]:
        """The steps that a worker consumes for: those with a trigger that is no HTTP trigger."""
        return tuple(step for step in self.steps if len(step.triggers) > len(step.http_triggers))


def application_problems(steps: Iterable[Step]) -> list[StepError]:
    """Return what is wrong with steps that are to be one application: two of one name, or of one HTTP route."""
    problems: list[StepError] = []
    names: dict[str, Step] = {}
    routes: dict[object, Step] = {}
    for step in steps:
        if other := names.get(step.name):
            places = f"{place_of(other)} and {place_of(step)}"
            problems.append(StepError(f"two steps are named {step.name!r} ({places}); give each step a name of its own"))
        names.setdefault(step.name, step)
        for trigger in step.http_triggers:
            if other := routes.get(trigger.shape):
                places = f"{place_of(other)} and {place_of(step)}"
                text = (
                    f"step {step.name!r}: {trigger} is a route of step {other.name!r} already ({places}); remove one of the two"
                )
                problems.append(StepError(text))
            routes.setdefault(trigger.shape, step)
    return problems


def place_of(step: Step) -> str:
    """Return file and line of a step's handler, or its module if it is no function."""
    handler: Any = step.handler
    while isinstance(handler, functools.partial):
        handler = handler.func
    handler = inspect.unwrap(handler)
    body = handler if hasattr(handler, "__code__") else getattr(type(handler), "__call__", None)  # noqa: B004
    code = getattr(body, "__code__", None)
    if code is None:
        return f"module {getattr(handler, '__module__', 'unknown')}"
    return f"{shown_path(code.co_filename)}:{code.co_firstlineno}"


def shown_path(filename: str) -> str:
    """Return a path as short as it can be written from the current folder."""
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename


def _check_is_complete(step: object) -> None:
    if isinstance(step, StepDefinition):
        name = step.settings.name
        if step.step is None:
            raise StepError(f"step {name!r} has no handler; bind one with .handle(fn) or as a decorator")
        raise StepError(f"step {name!r}: an application takes the step that .handle(fn) returned, not its definition")
    if not isinstance(step, Step):
        raise StepError(f"an application takes steps, not {step!r}; make one with step({{...}})")
