"""What a watch yields: changes, and marks between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeAlias, cast

from motia_redis._store import codec, events, expiry
from motia_redis._store.events import TransactionInfo
from motia_redis._store.keyspace import Subject
from motia_redis._store.stream_groups import scope_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    # `Change` alone means `Change[Any]`; so do `Watch` and `Mirror`. Python knows such defaults from 3.13 on; type checkers
    # know them here.
    from typing_extensions import TypeVar

    from motia_redis._store.codec import Coder
    from motia_redis._store.cursors import Positions
    from motia_redis._store.lanes import Batch, Event

    T_co = TypeVar("T_co", default=Any, covariant=True)
else:
    from typing import TypeVar

    T_co = TypeVar("T_co", covariant=True)

#: What a `Change` says: the type of the change, or `state:snapshot` for a value that was there.
ChangeType: TypeAlias = Literal["state:created", "state:updated", "state:deleted", "state:ttl", "state:snapshot"]
#: Why a key is gone: by a call, because its time to live had passed, or found missing in a new snapshot. Or why it has its value:
#: by an import. Or why either: by a copy of another namespace.
ChangeReason: TypeAlias = Literal["deleted", "expired", "resync", "import", "copy"]

SNAPSHOT, RESYNC = b"state:snapshot", b"resync"


#: Where a reader is in a partition: behind an event of a batch, and at least at the first part.
Place: TypeAlias = "tuple[Positions | None, Batch | None, int]"


class CursorMaker(Protocol):
    """A watch, as its items see it."""

    def cursor_at(self, places: Mapping[int, Place], *, is_synced: bool) -> str:
        """Return the cursor of an item at these places."""


class Change(Generic[T_co]):
    """Hold one change of one key, or one value of a snapshot.

    The values are decoded anew by each access, so that watches do not share them: keep what is used often in a variable.
    """

    __slots__ = ("_coder", "_event", "_is_synced", "_places", "_watch")

    def __init__(
        self, event: Event, watch: CursorMaker, places: Mapping[int, Place], *, is_synced: bool, coder: Coder[Any] = codec
    ) -> None:
        self._coder = coder
        self._event = event
        self._watch = watch
        self._places = places
        self._is_synced = is_synced

    @property
    def scope(self) -> str:
        """Return the scope; a `StreamGroup` for the group of a stream."""
        return scope_name(codec.decode_key(self._event.scope or b""))

    @property
    def key(self) -> str:
        """Return the key."""
        return codec.decode_key(self._event.key)

    @property
    def type(self) -> ChangeType:
        """Return what has happened."""
        return cast("ChangeType", self._event.fields[b"type"].decode(errors="replace"))

    @property
    def revision(self) -> str:
        """Return the id of the change event; `0-0` for a value that another client wrote, and for a key found missing."""
        return self._event.id.decode(errors="replace")

    @property
    def value(self) -> T_co | None:
        """Return the value after the change; None for a deletion. Raises CorruptValue if another client wrote no JSON.

        The watch of a typed scope raises SchemaMismatch for a value of another type.
        """
        text = self._texts()[1]
        return None if text is None else self._coder.decode(text, subject=Subject(self.scope, self.key))

    @property
    def old_value(self) -> T_co | None:
        """Return the value before the change; None if there was none, and for a value of a snapshot. Raises as `value`."""
        text = self._texts()[0]
        return None if text is None else self._coder.decode(text, subject=Subject(self.scope, self.key))

    @property
    def is_deletion(self) -> bool:
        """Return whether the key has no value any more."""
        return self.type == "state:deleted"

    @property
    def reason(self) -> ChangeReason | None:
        """Return why the key is gone: `deleted`, `expired` or `resync`. Of other changes: `import` for an import, else None.

        Of all changes: `copy` for a copy of another namespace.
        """
        reason = self._event.fields.get(b"reason")
        if reason == b"copy":
            return "copy"
        if self.type != "state:deleted":
            return "import" if reason == b"import" else None
        return "resync" if reason == RESYNC else events.delete_reason(self._event.fields)

    @property
    def transaction(self) -> TransactionInfo | None:
        """Return which transaction made the change, if one did."""
        mark = self._event.fields.get(b"transaction")
        return None if mark is None else TransactionInfo.decode(mark)

    @property
    def timestamp(self) -> int:
        """Return the time of the change by the server's clock, in Unix milliseconds; 0 if it is not known."""
        return int(self.revision.partition("-")[0])

    @property
    def expires_at(self) -> float | None:
        """Return the Unix time in seconds at which the value expires, or None."""
        text = self._texts()[1]
        return None if text is None else expiry.expires_at(text)

    @property
    def text(self) -> bytes | None:
        """Return the JSON text of the value as it is stored; None for a deletion. It costs less than decoding it."""
        return self._texts()[1]

    @property
    def cursor(self) -> str:
        """Return where the watch has come with this item: `watch(..., start=cursor)` goes on after it."""
        return self._watch.cursor_at(self._places, is_synced=self._is_synced)

    def _texts(self) -> tuple[bytes | None, bytes | None]:
        fields = self._event.fields
        return (None, fields[b"new"]) if fields[b"type"] == SNAPSHOT else events.texts(fields)

    def __repr__(self) -> str:
        return f"<Change {self.type} scope={self.scope!r} key={self.key!r} revision={self.revision}>"


@dataclass(frozen=True, slots=True)
class Synced:
    """Mark the end of a snapshot: all that was there has been yielded, and all later changes follow."""

    cursor: str  #: where the watch has come


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Tell that nothing has happened: all changes up to this point have been yielded."""

    cursor: str  #: where the watch has come
    timestamp: int  #: time of the last look at the server by its clock, in Unix milliseconds


#: What a watch yields.
WatchItem: TypeAlias = Change[T_co] | Synced | Bookmark
