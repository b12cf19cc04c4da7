"""The inputs of handlers, and the response of an HTTP handler."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime  # noqa: TC003 - pydantic and others resolve these at run time
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias

from motia_redis._steps.models import Model, accepts_camel_case
from motia_redis._store import codec
from motia_redis._store.events import DeleteReason, TransactionInfo  # noqa: TC001 - as above

if TYPE_CHECKING:
    # Alone they mean `StateTriggerInput[Any]`. Python knows such defaults from 3.13 on; type checkers know them here.
    from typing_extensions import TypeVar

    T_co = TypeVar("T_co", default=Any, covariant=True)
else:
    from typing import TypeVar

    T_co = TypeVar("T_co", covariant=True)

_DERIVED: Any = ""  # from which values are None

#: The type of a change of a key.
StateEventType: TypeAlias = Literal["state:created", "state:updated", "state:deleted"]
#: What has happened to an item of a stream.
StreamEventType: TypeAlias = Literal["create", "update", "delete"]


# Those that are generic have no slots: Python 3.11 cannot make a StateTriggerInput[User](...) with them.


@accepts_camel_case
@dataclass(frozen=True)
class ApiRequest(Model, Generic[T_co]):
    """Hold one HTTP request, as an HTTP handler gets it.

    `path_params` holds the URL-decoded values of the route's `:name` segments. `query_params` holds text, or a list of
    texts for a parameter given more than once. `headers` has lower-case names. `body` is the body as its content type says: the
    decoded JSON (also without a content type), a dict like `query_params` for a form, text for `text/*`, bytes for any other
    type, and None for an empty body. `raw_body` is the body as it was sent, to check a signature, for example.

    `ApiRequest[dict[str, Any]]` says what the body is to type checkers. Every field has a default, for tests of handlers.
    """

    method: str = "GET"
    path: str = "/"
    path_params: dict[str, str] = field(default_factory=dict)
    query_params: dict[str, str | list[str]] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: T_co | None = None
    raw_body: bytes = b""


@dataclass(frozen=True)
class ApiResponse(Model, Generic[T_co]):
    """Hold one HTTP response: a status from 200 to 599, a body and headers (a list of texts repeats its header).

    A `body` of text is sent as `text/plain`, of bytes as `application/octet-stream`, anything else as JSON, unless
    `headers` names another `content-type`.
    """

    status: int = 200
    body: T_co | None = None
    headers: dict[str, str | list[str]] = field(default_factory=dict)


@accepts_camel_case
@dataclass(frozen=True, kw_only=True)
class StateTriggerInput(Model, Generic[T_co]):
    """Hold one change of one key, as the handler and the condition of a state trigger get it.

    `group_id` is the scope and `item_id` the key; `old_value` is None for a created and `new_value` for a deleted key.
    `reason` says why a key was deleted; it is None for other changes. `revision` is the id of the change event, and
    `timestamp` the time of the change on the Redis server in Unix milliseconds (taken from the revision where it is not given).
    `transaction` says which transaction made the change, if one did.

    Tests of handlers can make one of scope, key and values: `event_type` follows from which values are None.

    A trigger with a typed scope (`state(scope=users)`) gives values of its type: a `StateTriggerInput[User]`. Without one, the
    old value is decoded when it is read for the first time.
    """

    group_id: str
    item_id: str
    old_value: T_co | None = None
    new_value: T_co | None = None
    event_type: StateEventType = _DERIVED
    revision: str = "0-0"
    timestamp: int = -1
    reason: DeleteReason | None = None
    transaction: TransactionInfo | None = None
    type: Literal["state"] = "state"

    def __post_init__(self) -> None:
        if not self.event_type:
            kind = "created" if self.old_value is None else "deleted" if self.new_value is None else "updated"
            object.__setattr__(self, "event_type", f"state:{kind}")
        if self.timestamp < 0:
            object.__setattr__(self, "timestamp", int(self.revision.partition("-")[0]))


class _OldValue:
    """Decode the old value of a change when it is read for the first time; then it is found in the object itself.

    Most handlers look at the new value only. An object that was made with its fields has the old value from the start.
    """

    def __get__(self, change: StateTriggerInput | None, _: object = None) -> Any:
        if change is None:
            return None  # the default of the field
        values = vars(change)
        try:
            text, subject = values[OLD_TEXT]
        except KeyError:  # another thread was faster
            return values.get("old_value")
        values["old_value"] = value = codec.decode(text, subject=subject)
        values.pop(OLD_TEXT, None)
        return value


OLD_TEXT = "_old_text"  #: the text of an old value that was not read yet, and what names it in errors
# It has no __set__, so a value in the object comes first.
StateTriggerInput.old_value = _OldValue()  # type: ignore[misc]


@accepts_camel_case
@dataclass(frozen=True, kw_only=True)
class CronTriggerInput(Model):
    """Hold one time of a cron trigger, as its handler gets it.

    `scheduled_at` is the time of the expression, and `fired_at` when it fired, by the clock of the Redis server; the handler may
    run later. Both are local times of the trigger's time zone, with its offset from UTC then, and both stay the same in a retry.
    `expression` and `timezone` are those of the trigger, the expression as its fields.
    """

    scheduled_at: datetime
    fired_at: datetime
    expression: str
    timezone: str
    type: Literal["cron"] = "cron"
