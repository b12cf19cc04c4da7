"""Choose the lanes of messages without a key: one after the other, so that a few messages spread over the workers.

A lane chosen at random has too many of few messages: of 20 messages in 8 lanes, one lane gets 5 or more in every second run. A
process sends each topic's messages to the lanes in turn and begins at a random one, since other processes send as well.
"""

from __future__ import annotations

import os

from motia_redis._ids import generator

_TOPICS = 4096  # whose turns are remembered
_START = 2**16  # a multiple of all usual numbers of lanes


class LaneTurns:
    """Count the messages of each topic that this process sends."""

    def __init__(self) -> None:
        self._next: dict[bytes, int] = {}
        self._process = os.getpid()

    def take(self, topic: bytes) -> int:
        """Return the number of a message of a topic: its lane is the remainder by the number of lanes."""
        if self._process != os.getpid():  # processes forked from one must not send to the same lanes
            self._process, self._next = os.getpid(), {}
        turns = self._next
        turn = turns.get(topic)
        if turn is None:
            turn = generator.randrange(_START)
            if len(turns) >= _TOPICS:
                self._next = turns = {}
        turns[topic] = turn + 1
        return turn
