"""Steps: what triggers them, how events are delivered to them, and the handler that does the work."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Never, Required, TypeAlias, TypedDict, cast, overload

from motia_redis._steps.forms import old_key_problem, snake_case_keys, trigger_of
from motia_redis._steps.invocation import check_function, is_async
from motia_redis._steps.rates import RATE_WORDING, parse_rate
from motia_redis._steps.retrying import RetryPolicy, is_count, is_seconds
from motia_redis._steps.stream_triggers import StreamTrigger
from motia_redis._steps.triggers import CronTrigger, HttpTrigger, QueueTrigger, StateTrigger, Trigger
from motia_redis.errors import StepError

if TYPE_CHECKING:
    # `Step` alone means `Step[..., Any]`. Python knows such defaults from 3.13 on; type checkers know them here.
    from typing_extensions import ParamSpec, TypeVar

    P = ParamSpec("P", default=...)
    R = TypeVar("R", default=Any)
else:
    from typing import ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")

MAX_NAME_LENGTH = 128

#: Topics as text, or as dicts with `topic`, which Motia writes.
Topics: TypeAlias = list[str] | tuple[str, ...] | list[dict[str, Any]]
_ACCEPTED = "http(...), state(...), queue(...), cron(...) or stream(...)"

# A name becomes part of Redis keys and a consumer group's name, and is read in one-line logs.
_NAME = re.compile(r"[\w.\-:](?:[\w.\-: ]*[\w.\-:])?")


class StepConfig(TypedDict, total=False):
    """Describe a step: its triggers and how events are delivered to it.

    The delivery options apply to state, queue, cron and stream triggers. At run time names in camel case are accepted, too.
    """

    name: Required[str]  #: 1 to 128 letters, digits, `.`, `_`, `-`, `:` and inner spaces; unique in an application
    triggers: Required[Sequence[Trigger | Mapping[str, Any]]]  #: http(...), state(...), queue(...), cron(...), stream(...), dicts
    enqueues: Topics  #: topics that the handler sends messages to; for readers
    virtual_enqueues: Topics  #: the same for messages that something else sends; for readers
    virtual_subscribes: list[str] | tuple[str, ...]  #: topics that something else handles; for readers
    include_files: list[str] | tuple[str, ...]  #: files that belong to the step; for readers
    description: str  #: for readers
    flows: list[str] | tuple[str, ...]  #: names of the flows that the step belongs to; for readers
    max_attempts: int  #: attempts at one event before it becomes a dead letter; 5
    backoff: float  #: seconds before the second attempt, doubled with each further one; 0.5
    max_backoff: float  #: the longest of these pauses in seconds; 30, or `backoff` if that is longer
    timeout: float | None  #: seconds that one attempt of an async handler may take; None: no limit
    effects_once: bool  #: a handler that runs again for the same event makes its changes and messages once; False
    concurrency: int  #: the most handlers of the step that run at once in one worker process; that of the worker
    rate: str  #: the most attempts that begin in a time, over all workers: "10/s", "600/m", "1000/h", "5000/d"; no limit


@dataclass(frozen=True, kw_only=True, eq=False)
class StepSettings:
    """Hold a checked configuration, with the defaults filled in."""

    name: str
    triggers: tuple[Trigger, ...]
    enqueues: tuple[str, ...]
    description: str
    flows: tuple[str, ...]
    max_attempts: int
    backoff: float
    max_backoff: float
    timeout: float | None
    effects_once: bool
    concurrency: int | None  #: None: as many as the worker allows
    rate: str | None  #: such as "10/s"

    @property
    def http_triggers(self) -> tuple[HttpTrigger, ...]:
        """The HTTP routes."""
        return tuple(trigger for trigger in self.triggers if isinstance(trigger, HttpTrigger))

    @property
    def state_triggers(self) -> tuple[StateTrigger, ...]:
        """The state triggers."""
        return tuple(trigger for trigger in self.triggers if isinstance(trigger, StateTrigger))

    @property
    def queue_triggers(self) -> tuple[QueueTrigger, ...]:
        """The queue triggers."""
        return tuple(trigger for trigger in self.triggers if isinstance(trigger, QueueTrigger))

    @property
    def cron_triggers(self) -> tuple[CronTrigger, ...]:
        """The cron triggers."""
        return tuple(trigger for trigger in self.triggers if isinstance(trigger, CronTrigger))

    @property
    def stream_triggers(self) -> tuple[StreamTrigger, ...]:
        """The stream triggers."""
        return tuple(trigger for trigger in self.triggers if isinstance(trigger, StreamTrigger))

    @property
    def retries(self) -> RetryPolicy:
        """How attempts are made at events and messages."""
        return RetryPolicy(self.max_attempts, self.backoff, self.max_backoff, self.timeout)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Step(StepSettings, Generic[P, R]):
    """Hold a step that is complete: its settings and its handler.

    A step is called like its handler, with the same types, so it can be tested like a plain function.
    """

    handler: Callable[P, R]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the handler."""
        return self.handler(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Step {self.name!r}>"


class StepDefinition:
    """Hold the settings of a step until a handler is bound to them, once, with `.handle(fn)` or as a decorator.

    A definition at module level that gets no handler takes the function `handler` of its module when an application is loaded.
    """

    def __init__(self, config: StepConfig) -> None:
        self.settings: StepSettings = _checked_settings(config)
        self.step: Step | None = None  #: the complete step, once a handler is bound

    def handle(self, fn: Callable[P, R]) -> Step[P, R]:
        """Bind a handler and return the complete step.

        Arguments:
            fn: a function of `(input, ctx)` or `(input)`, async or sync. A sync one runs in a thread.

        Raises StepError if `fn` cannot be a handler of this step, or if a handler is bound already.
        """
        name = self.settings.name
        if self.step is not None:
            raise StepError(f"step {name!r} has a handler already: {self.step.handler!r}; define another step for {fn!r}")
        if problem := check_function(fn):
            raise StepError(f"step {name!r}: the handler {problem}")
        if self.settings.timeout is not None and not is_async(fn):
            # An attempt that goes on in its thread while the next one runs would break the order of its key.
            raise StepError(f"step {name!r}: 'timeout' needs an async handler: a thread cannot be stopped")
        bound = Step(handler=fn, **vars(self.settings))
        self.step = bound
        return bound

    def __call__(self, fn: Callable[P, R], /, *given: Never) -> Step[P, R]:
        """Do what `handle` does: a definition is a decorator.

        Raises StepError, too, when it is called like a handler.
        """
        if given:
            name = self.settings.name
            raise StepError(
                f"step {name!r}: a definition cannot be called; call the handler, or the step that .handle(fn) returned"
            )
        return self.handle(fn)

    def __repr__(self) -> str:
        return f"<StepDefinition {self.settings.name!r}>"


@overload
def step(config: StepConfig) -> StepDefinition: ...
@overload
def step(config: StepConfig, handler: Callable[P, R]) -> Step[P, R]: ...


def step(config: StepConfig, handler: Callable[..., Any] | None = None) -> StepDefinition | Step[..., Any]:
    """Return the definition of a step; bind its handler with `.handle(fn)` or use it as a decorator.

    Both give a `Step`, which is called like the handler, with the same types.

    Arguments:
        config: a dict with the keys `name` and `triggers`, and as needed those that `motia_redis.types.StepConfig` lists.
        handler: what `.handle` takes; then the complete step is returned.

    Raises StepError for a configuration that does not fit; the message names the step and the key.
    """
    definition = StepDefinition(config)
    return definition if handler is None else definition.handle(handler)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) and item for item in value)


def _is_enqueues(value: object) -> bool:
    return isinstance(value, list | tuple) and all(_topic_of(item) for item in value)


def _topic_of(item: object) -> str:
    """Return the topic of an item of `enqueues`: text, or a dict or object with `topic`; "" for anything else."""
    topic = item.get("topic") if isinstance(item, Mapping) else getattr(item, "topic", item)
    return topic if isinstance(topic, str) else ""


_TOPICS = 'a list of topics, or of dicts {"topic": ...}'
# What each key of a configuration accepts: the test and its wording. `name` and the triggers are tested further.
_OPTIONS: dict[str, tuple[Callable[[object], bool], str]] = {
    "name": (_is_text, "text"),
    "triggers": (lambda value: isinstance(value, list | tuple), f"a list of {_ACCEPTED}"),
    "enqueues": (_is_enqueues, _TOPICS),
    "virtual_enqueues": (_is_enqueues, _TOPICS),
    "virtual_subscribes": (_is_texts, "a list of topics"),
    "include_files": (_is_texts, "a list of files"),
    "description": (_is_text, "text"),
    "flows": (_is_texts, "a list of names"),
    "max_attempts": (is_count, "an integer of at least 1"),
    "backoff": (is_seconds, "a number of seconds over 0"),
    "max_backoff": (is_seconds, "a number of seconds over 0"),
    "timeout": (lambda value: value is None or is_seconds(value), "a number of seconds over 0, or None"),
    "effects_once": (lambda value: isinstance(value, bool), "True or False"),
    "concurrency": (is_count, "an integer of at least 1"),
    "rate": (lambda value: parse_rate(value) is not None, RATE_WORDING),
}


def _checked_settings(config: StepConfig) -> StepSettings:
    """Return the settings that `config` describes. Raises StepError for what does not fit."""
    name = _checked_name(config)
    config = cast("StepConfig", snake_case_keys(config))
    if problem := old_key_problem(config):
        raise StepError(f"step {name!r}: {problem}")
    for key, value in config.items():
        if key not in _OPTIONS:
            raise StepError(f"step {name!r}: unknown key {key!r}; accepted are {', '.join(_OPTIONS)}")
        accepts, wording = _OPTIONS[key]
        if not accepts(value):
            raise StepError(f"step {name!r}: {key!r} must be {wording}, not {value!r}")
    if "triggers" not in config:
        raise StepError(f"step {name!r}: 'triggers' is missing; it holds {_ACCEPTED}; an empty list for a step that never runs")
    backoff = config.get("backoff", 0.5)
    # A first pause over the default ceiling is what was asked for, so it raises the ceiling.
    max_backoff = config.get("max_backoff", max(30.0, backoff))
    if max_backoff < backoff:
        raise StepError(f"step {name!r}: 'max_backoff' ({max_backoff}) must not be under 'backoff' ({backoff})")
    triggers = _checked_triggers(name, config["triggers"])
    return StepSettings(
        name=name,
        triggers=triggers,
        enqueues=tuple(map(_topic_of, config.get("enqueues", ()))),
        description=config.get("description", ""),
        flows=tuple(config.get("flows", ())),
        max_attempts=config.get("max_attempts", 5),
        backoff=backoff,
        max_backoff=max_backoff,
        timeout=config.get("timeout"),
        effects_once=config.get("effects_once", False),
        concurrency=_concurrency(config, triggers),
        rate=config.get("rate"),
    )


def _concurrency(config: StepConfig, triggers: Sequence[Trigger]) -> int | None:
    """Return the smallest number that the step or one of its queue triggers says. None: no one says any."""
    said = [config["concurrency"]] if "concurrency" in config else []
    said += [trigger.concurrency for trigger in triggers if isinstance(trigger, QueueTrigger) and trigger.concurrency]
    return min(said, default=None)


def _checked_name(config: object) -> str:
    if not isinstance(config, Mapping):
        raise StepError(f"a step is made from a dict with 'name' and 'triggers', not from {config!r}")
    name = config.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > MAX_NAME_LENGTH:
        raise StepError(
            f"step {name!r}: 'name' must be 1 to {MAX_NAME_LENGTH} letters, digits, '.', '_', '-', ':' and inner spaces"
        )
    return name


def _checked_triggers(name: str, triggers: Sequence[object]) -> tuple[Trigger, ...]:
    checked: list[Trigger] = []
    schedules: set[str] = set()
    for given in triggers:
        try:
            trigger = trigger_of(given) if isinstance(given, Mapping) else given
        except StepError as error:
            raise StepError(f"step {name!r}: {error}") from None
        if not isinstance(trigger, HttpTrigger | StateTrigger | QueueTrigger | CronTrigger | StreamTrigger):
            raise StepError(f"step {name!r}: {trigger!r} is no trigger; accepted are {_ACCEPTED}")
        if problem := trigger.problem():
            raise StepError(f"step {name!r}: {problem}")
        if isinstance(trigger, CronTrigger) and trigger.schedule in schedules:
            raise StepError(f"step {name!r}: {trigger} stands twice in 'triggers'; remove one of the two")
        if isinstance(trigger, CronTrigger):
            schedules.add(trigger.schedule)
        checked.append(trigger)
    return tuple(checked)
