"""Steps with a handler for each kind of their triggers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from motia_redis._steps.definitions import Step, StepConfig, StepDefinition
from motia_redis._steps.invocation import check_function, is_coroutine, takes_ctx
from motia_redis.errors import StepError

Handler: TypeAlias = Callable[..., Any]

_KINDS = ("http", "queue", "state", "cron", "stream")


class MultiTriggerStepBuilder:
    """Hold the settings of a step and the handlers for the kinds of its triggers, until `.handlers()` completes the step.

    The handlers are all async or all plain functions. Those of cron triggers take the context or nothing, all others
    `(input, ctx)` or `(input)`.
    """

    def __init__(self, config: StepConfig) -> None:
        self._definition = StepDefinition(config)
        self._handlers: dict[str, Handler] = {}

    @property
    def step(self) -> Step | None:
        """The complete step, once `.handlers()` was called."""
        return self._definition.step

    def on_http(self, handler: Handler) -> MultiTriggerStepBuilder:
        """Set the handler for HTTP requests."""
        return self._set("http", handler)

    def on_queue(self, handler: Handler) -> MultiTriggerStepBuilder:
        """Set the handler for messages."""
        return self._set("queue", handler)

    def on_state(self, handler: Handler) -> MultiTriggerStepBuilder:
        """Set the handler for changes of state."""
        return self._set("state", handler)

    def on_cron(self, handler: Handler) -> MultiTriggerStepBuilder:
        """Set the handler for times. It takes the context or nothing; `ctx.input_value` is the CronTriggerInput."""
        return self._set("cron", handler)

    def on_stream(self, handler: Handler) -> MultiTriggerStepBuilder:
        """Set the handler for changes of the items of streams."""
        return self._set("stream", handler)

    def handlers(self, handlers: Mapping[str, Handler] | None = None) -> Step[[Any, Any], Any]:
        """Return the complete step.

        Arguments:
            handlers: handlers by the kinds of triggers, `http` (or `api`), `queue`, `state`, `cron` and `stream`, beside those
                that are set already.

        Raises StepError if a trigger has no handler, or a handler does not fit.
        """
        for kind, handler in (handlers or {}).items():
            self._set("http" if kind == "api" else kind, handler)
        settings = self._definition.settings
        missing = [kind for kind in _KINDS if getattr(settings, f"{kind}_triggers") and kind not in self._handlers]
        if missing:
            raise StepError(f"{self._subject}: no handler for its triggers of the kind {' and '.join(map(repr, missing))}")
        if not self._handlers:
            raise StepError(f"{self._subject} has no handler; set one, such as .on_queue(handler)")
        asynchronous = {kind: is_coroutine(handler) for kind, handler in self._handlers.items()}
        if len(set(asynchronous.values())) > 1:
            listed = ", ".join(f"{kind!r} is {'async' if value else 'a plain function'}" for kind, value in asynchronous.items())
            raise StepError(f"{self._subject}: its handlers must be all async, or all plain functions: {listed}")
        return self._definition.handle(_choosing(dict(self._handlers), is_async=all(asynchronous.values())))

    @property
    def _subject(self) -> str:
        return f"step {self._definition.settings.name!r}"

    def _set(self, kind: str, handler: Handler) -> MultiTriggerStepBuilder:
        if kind not in _KINDS:
            raise StepError(f"{self._subject}: there is no kind of trigger {kind!r:.80}; there are {', '.join(_KINDS)}")
        if kind in self._handlers:
            raise StepError(f"{self._subject} has a handler for {kind!r} already: {self._handlers[kind]!r}")
        problem = _cron_problem(handler) if kind == "cron" else check_function(handler)
        if problem:
            raise StepError(f"{self._subject}: the handler for {kind!r} {problem}")
        self._handlers[kind] = handler
        return self

    def __repr__(self) -> str:
        return f"<MultiTriggerStepBuilder {self._definition.settings.name!r}>"


def multi_trigger_step(config: StepConfig) -> MultiTriggerStepBuilder:
    """Return what makes a step with a handler for each kind of its triggers.

    `multi_trigger_step(config).on_queue(f).on_http(g).handlers()` and
    `multi_trigger_step(config).handlers({"queue": f, "http": g})` give the same step.

    Arguments:
        config: what `step` takes.

    Raises StepError for a configuration that does not fit; the message names the step and the key.
    """
    return MultiTriggerStepBuilder(config)


def _cron_problem(handler: object) -> str | None:
    """Return why a function can be no handler of cron triggers here, or None."""
    if callable(handler) and _parameters(handler) == 0:
        return None
    if problem := check_function(handler):
        return problem
    if callable(handler) and takes_ctx(handler):
        return "must take (ctx) or nothing; the time is in ctx.input_value"
    return None


def _parameters(handler: Handler) -> int | None:
    """Return how many parameters a function has, or None if it does not tell."""
    try:
        return len(inspect.signature(handler).parameters)
    except ValueError:  # some functions written in C
        return None


def _choosing(handlers: Mapping[str, Handler], *, is_async: bool) -> Callable[[Any, Any], Any]:
    """Return the handler that calls one of several."""
    # How each is called is worked out here, not in each run.
    takes = {kind: _parameters(handler) if kind == "cron" else 1 + takes_ctx(handler) for kind, handler in handlers.items()}

    def choose(input: Any, ctx: Any) -> Any:
        kind = ctx.trigger.type
        if kind not in handlers:
            raise StepError(f"step {ctx.step_name!r} has no handler for {kind!r}, only for {', '.join(handlers)}")
        arguments = (ctx,) if kind == "cron" else (input, ctx)
        return handlers[kind](*arguments[: takes[kind]])

    async def choose_async(input: Any, ctx: Any) -> Any:
        return await choose(input, ctx)

    return choose_async if is_async else choose
