"""The record of a delayed message in Redis, as lua/lib/delayed.lua writes it."""

from __future__ import annotations

import re
from typing import NamedTuple

MEMBER = b"message:"  #: how the members of the sorted set begin that are messages
_SIZES = re.compile(rb"(\d+):(\d+):(\d+):(\d+)\n")  # due, and the bytes of the stream's name, the key and the trace id
_STREAM = re.compile(rb"topic:\d+:(.*)", re.DOTALL)


class DelayedRecord(NamedTuple):
    """Hold what is kept of a message until its time."""

    due: int  #: Unix milliseconds
    topic: bytes
    key: bytes  #: empty: none
    trace: bytes  #: empty: none
    data: bytes

    @classmethod
    def decode(cls, record: bytes) -> DelayedRecord | None:
        """Return what a record holds; None: another client wrote it."""
        match = _SIZES.match(record)
        if match is None:
            return None
        due, *sizes = map(int, match.groups())
        parts, at = [], match.end()
        for size in sizes:
            parts.append(record[at : at + size])
            at += size
        stream = _STREAM.fullmatch(parts[0])
        return cls(due, stream[1] if stream else b"", parts[1], parts[2], record[at:])

    def encode(self, lane: int) -> bytes:
        """Return the record of the message for a lane of its topic."""
        name = b"topic:%d:%b" % (lane, self.topic)
        sizes = b"%d:%d:%d:%d\n" % (self.due, len(name), len(self.key), len(self.trace))
        return b"".join((sizes, name, self.key, self.trace, self.data))
