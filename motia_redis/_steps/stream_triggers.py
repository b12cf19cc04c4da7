"""Stream triggers: the changes of a stream's items that a step reacts to, and the input of its handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, overload

from motia_redis._steps.context import FlowContext
from motia_redis._steps.events import decode_change, foreign_entry
from motia_redis._steps.inputs import StreamEventType  # noqa: TC001 - pydantic and others resolve these at run time
from motia_redis._steps.invocation import check_function
from motia_redis._steps.models import Model, accepts_camel_case
from motia_redis._steps.streams import Stream
from motia_redis._store import codec
from motia_redis._store.events import DeleteReason, TransactionInfo  # noqa: TC001 - as above
from motia_redis._store.stream_groups import StreamGroup, check_name
from motia_redis.errors import InvalidName

if TYPE_CHECKING:
    from collections.abc import Mapping

    # `StreamTriggerInput` alone means `StreamTriggerInput[Any]`; so do the others. Python knows such defaults from 3.13 on; type
    # checkers know them here.
    from typing_extensions import TypeVar

    from motia_redis._store.codec import Coder

    T = TypeVar("T", default=Any)
    T_co = TypeVar("T_co", default=Any, covariant=True)
else:
    from typing import TypeVar

    T = TypeVar("T")
    T_co = TypeVar("T_co", covariant=True)

_EVENT_TYPES: dict[str, StreamEventType] = {"state:created": "create", "state:updated": "update", "state:deleted": "delete"}


# Without slots: Python 3.11 cannot make a StreamEvent[Todo](...) with them.


@accepts_camel_case
@dataclass(frozen=True, kw_only=True)
class StreamEvent(Model, Generic[T_co]):
    """Say what has happened to an item: `data` is the item after the change; for a deletion, the item that was deleted.

    `old_data` is the item before the change; None if it was created.
    """

    type: StreamEventType
    data: T_co
    old_data: T_co | None = None


@accepts_camel_case
@dataclass(frozen=True, kw_only=True)
class StreamTriggerInput(Model, Generic[T_co]):
    """Hold one change of one item of a stream, as the handler and the condition of a stream trigger get it.

    `id` is the item. `reason` says why an item was deleted; it is None for other changes. `revision` is the id of the change
    event, and `timestamp` the time of the change on the Redis server in Unix milliseconds (taken from the revision where it is
    not given). `transaction` says which transaction made the change, if one did.

    A trigger with a typed stream (`stream(todo)`) gives items of its type: a `StreamTriggerInput[Todo]`.
    """

    stream_name: str
    group_id: str
    id: str
    event: StreamEvent[T_co]
    revision: str = "0-0"
    timestamp: int = -1
    reason: DeleteReason | None = None
    transaction: TransactionInfo | None = None
    type: Literal["stream"] = "stream"

    def __post_init__(self) -> None:
        if self.timestamp < 0:
            object.__setattr__(self, "timestamp", int(self.revision.partition("-")[0]))


#: What decides whether a change of an item fires: a sync or async function of `(input, ctx)` or `(input)`.
StreamCondition: TypeAlias = (
    Callable[[StreamTriggerInput[T], FlowContext], bool | Awaitable[bool]]
    | Callable[[StreamTriggerInput[T]], bool | Awaitable[bool]]
)


@dataclass(frozen=True, slots=True)
class StreamTrigger:
    """Describe the changes of a stream's items that fire a step: of all groups or one, of all items or one."""

    stream_name: str
    group_id: str | None = None
    item_id: str | None = None
    condition: StreamCondition | None = None
    typed: Stream[Any] | None = None  #: what gives the items of the input their type

    def __str__(self) -> str:
        place = self.stream_name
        if self.item_id is not None or self.group_id is not None:
            place += f"/{'*' if self.group_id is None else self.group_id}"
        if self.item_id is not None:
            place += f"/{self.item_id}"
        return f"stream {place}" + ("" if self.condition is None else " (condition)")

    def problem(self) -> str | None:
        """Return what is wrong with the trigger, or None."""
        if not isinstance(self.stream_name, str) or not self.stream_name:
            return f"a stream trigger needs the name of a stream, such as stream('todo'), not {self.stream_name!r:.80}"
        if self.condition is not None and (problem := check_function(self.condition)):
            return f"the condition of a stream trigger {problem}"
        try:
            check_name("stream_name of a stream trigger", self.stream_name)
            for label, name in (("group_id", self.group_id), ("item_id", self.item_id)):
                if name is not None:
                    check_name(f"{label} of a stream trigger", name)
        except InvalidName as error:
            return str(error)
        return None


@overload
def stream(
    stream_name: str,
    *,
    group_id: str | None = None,
    item_id: str | None = None,
    condition: StreamCondition | None = None,
) -> StreamTrigger: ...
@overload
def stream(
    stream_name: Stream[T],
    *,
    group_id: str | None = None,
    item_id: str | None = None,
    condition: StreamCondition[T] | None = None,
) -> StreamTrigger: ...
def stream(
    stream_name: str | Stream[Any],
    *,
    group_id: str | None = None,
    item_id: str | None = None,
    condition: StreamCondition[Any] | None = None,
) -> StreamTrigger:
    """Return a trigger that fires on changes of a stream's items.

    Arguments:
        stream_name: the name of the stream, or the `Stream`. With a typed one the condition and the handler get items of its
            type, and an event with another item is a failed attempt, which raises SchemaMismatch.
        group_id: only items of this group fire. Group and item are compared before the condition runs and cost less.
        item_id: only items with this name fire: in `group_id`, or in every group.
        condition: a function of `(input, ctx)` or `(input)` that decides whether a change fires, as for `state`.

    A trigger that does not fit is rejected with StepError by the step that is made with it.
    """
    if isinstance(stream_name, Stream):
        return StreamTrigger(stream_name.name, group_id, item_id, condition, stream_name)
    return StreamTrigger(stream_name, group_id, item_id, condition)


def decode_item_change(entry_id: str, fields: Mapping[bytes, bytes], coder: Coder[Any] = codec) -> StreamTriggerInput:
    """Return the change of an item that an event describes. Raises as `decode_change` does."""
    change = decode_change(entry_id, fields, coder)
    group, event = change.group_id, _EVENT_TYPES.get(change.event_type)
    if not isinstance(group, StreamGroup) or event is None:
        raise foreign_entry(entry_id)
    data = change.old_value if event == "delete" else change.new_value
    return StreamTriggerInput(
        stream_name=group.stream,
        group_id=group.group,
        id=change.item_id,
        event=StreamEvent(type=event, data=data, old_data=change.old_value),
        revision=change.revision,
        timestamp=change.timestamp,
        reason=change.reason,
        transaction=change.transaction,
    )
