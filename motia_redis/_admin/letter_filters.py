"""Find dead letters by what they are about, and group them by what went wrong."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from motia_redis._admin.connections import open_namespace
from motia_redis._admin.letters import LetterCursor, filled, merged, newest_first

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from motia_redis._admin.letters import DeadLetter
    from motia_redis._store.manager import StateManager

_LONGEST = 100  # characters of the name of an error
# What differs between two failures of one kind: ids and numbers.
_VARYING = re.compile(
    r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b0x[0-9a-fA-F]+\b|\b(?=[a-f]*\d)[0-9a-f]{8,}\b|\d+(?:\.\d+)?"
)


def error_name(letter: DeadLetter) -> str:
    """Return what letters of one failure share: the type of the error and the first line of its text, `#` for ids and numbers."""
    return named(letter.error_type, letter.error_text)


def named(error_type: str, text: str) -> str:
    """Return the name of an error: see `error_name`."""
    line = " ".join(_VARYING.sub("#", text.strip().partition("\n")[0][: 4 * _LONGEST]).split())
    line = line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
    return f"{error_type}: {line}" if line else error_type


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterFilter:
    """Say which letters are meant: those that all given conditions hold for."""

    step: str | None = None
    error: str | None = None  #: the type of the error, or its name as `error_name` returns it
    scope: str | None = None  #: for an item of a stream: `stream:NAME/GROUP`, as in Redis
    topic: str | None = None
    key_prefix: str | None = None
    after: datetime | None = None  #: when the step gave up, this moment included
    before: datetime | None = None  #: this moment not included
    name: Callable[[DeadLetter], str] = field(default=error_name, repr=False)  #: a caller that masks texts passes its own

    @property
    def is_open(self) -> bool:
        """Whether all letters of a step, or of all steps, are meant."""
        given = (self.error, self.scope, self.topic, self.key_prefix, self.after, self.before)
        return all(condition is None for condition in given)

    def match(self, letter: DeadLetter) -> bool:
        """Return whether a letter is meant."""
        return (
            (self.step is None or letter.step == self.step)
            and (self.scope is None or letter.scope == self.scope)
            and (self.topic is None or letter.topic == self.topic)
            and (self.key_prefix is None or (letter.key or "").startswith(self.key_prefix))
            and (self.after is None or letter.time >= self.after)
            and (self.before is None or letter.time < self.before)
            and (self.error is None or self.error == letter.error_type or self.error == self.name(letter))
        )


class Found(NamedTuple):
    """A page of letters, the newest first."""

    letters: list[DeadLetter]
    searched: int  #: letters that were looked at for this page
    cursor: LetterCursor | None  #: where to look further; None at the end


async def find_letters(
    state: StateManager, where: LetterFilter, *, limit: int, most_searched: int, cursor: LetterCursor | None = None
) -> Found:
    """Return letters that a filter means, the newest first, behind a cursor. Look at so many letters at most.

    May raise StateUnavailable. Cost: page by page, the bytes of the letters that are looked at.
    """
    found: list[DeadLetter] = []
    searched = 0
    last: DeadLetter | None = None
    async with open_namespace(state, "dead letters") as (router, keyspace):
        places = [*await filled(router, keyspace, where.step)]
        async for letter in newest_first(router, places, cursor):
            if searched == most_searched or len(found) == limit:
                return Found(found, searched, None if last is None else LetterCursor.of(last))
            searched += 1
            last = letter
            if where.match(letter):
                found.append(letter)
    return Found(found, searched, None)


async def oldest_letters(state: StateManager, where: LetterFilter, *, limit: int) -> list[DeadLetter]:
    """Return the oldest letters that a filter means. Errors and cost: as `find_letters`."""
    found: list[DeadLetter] = []
    async with open_namespace(state, "dead letters") as (router, keyspace):
        async for letter in merged(router, [*await filled(router, keyspace, where.step)]):
            if where.match(letter):
                found.append(letter)
            if len(found) == limit:
                break
    return found


@dataclass(slots=True)
class Group:
    """Letters of one step and one error."""

    step: str
    error: str
    count: int
    oldest: datetime
    newest: datetime


class Groups(NamedTuple):
    """The groups of the newest letters, the largest first."""

    groups: list[Group]
    searched: int  #: letters that were looked at
    total: int  #: letters that exist


async def read_groups(
    state: StateManager, step: str | None, *, most_searched: int, name: Callable[[DeadLetter], str] = error_name
) -> Groups:
    """Group the newest letters of a step, or of all steps, by step and error. Errors and cost: as `find_letters`."""
    groups: dict[tuple[str, str], Group] = {}
    searched = 0
    async with open_namespace(state, "dead letters") as (router, keyspace):
        counts = await filled(router, keyspace, step)
        async for letter in newest_first(router, [*counts]):
            if searched == most_searched:
                break
            searched += 1
            error = name(letter)
            group = groups.setdefault((letter.step, error), Group(letter.step, error, 0, letter.time, letter.time))
            group.count += 1
            group.oldest, group.newest = min(group.oldest, letter.time), max(group.newest, letter.time)
    largest_first = sorted(groups.values(), key=lambda group: (-group.count, group.step, group.error))
    return Groups(largest_first, searched, max(sum(counts.values()), searched))
