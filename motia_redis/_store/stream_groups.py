"""The scopes that hold the items of streams: one for each group, under a reserved name."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from motia_redis._store.keyspace import RESERVED, Reserved
from motia_redis.errors import InvalidName

if TYPE_CHECKING:
    from typing import Self

_STREAM = RESERVED.decode() + "stream/"


class StreamGroup(Reserved):
    """Name the scope that holds the items of one group of a stream. All calls that take a scope take it.

    It is text: `@motia/stream/<name of the stream>/<name of the group>`. `%` and `/` in the name of the stream are written as
    `%25` and `%2F`, so two groups never have the same text. A plain text that begins like this is no scope: InvalidName.

    Arguments:
        stream: the name of the stream.
        group: the name of the group.

    Raises InvalidName for a name that is empty, no text or not encodable.
    """

    __slots__ = ("group", "stream")

    stream: str
    group: str

    def __new__(cls, stream: str, group: str) -> Self:
        check_name("name of a stream", stream)
        check_name(f"group of stream {stream!r:.80}", group)
        name = super().__new__(cls, _prefix(stream) + group)
        name.stream = stream
        name.group = group
        return name

    def __reduce__(self) -> tuple[type[StreamGroup], tuple[str, str]]:
        """Make copies and pickles from both names."""
        return type(self), (self.stream, self.group)

    def __repr__(self) -> str:
        return f"{self.group!r:.80} of stream {self.stream!r:.80}"


def scope_name(text: str) -> str:
    """Return a scope as calls take it: a `StreamGroup` for that of a group."""
    if not text.startswith(_STREAM):
        return text
    name, slash, group = text[len(_STREAM) :].partition("/")
    stream = name.replace("%2F", "/").replace("%25", "%")
    if slash and _prefix(stream) + group == text:
        with suppress(InvalidName):
            return StreamGroup(stream, group)
    return text  # another client wrote it


def stream_prefix(stream: str) -> bytes:
    """Return what the scopes of a stream's groups begin with, and no others. Raises InvalidName as `StreamGroup` does."""
    check_name("name of a stream", stream)
    return _prefix(stream).encode()


def check_name(kind: str, name: object) -> None:
    """Raise InvalidName if the name of a stream or group is no text, empty or not encodable."""
    if not isinstance(name, str):
        raise InvalidName(f"the {kind} must be a string, not {type(name).__name__}: {name!r:.80}")
    if not name:
        raise InvalidName(f"the {kind} must not be empty")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InvalidName(f"the {kind} contains a lone surrogate at character {error.start}: {name!r:.80}") from None


def _prefix(stream: str) -> str:
    return f"{_STREAM}{stream.replace('%', '%25').replace('/', '%2F')}/"
