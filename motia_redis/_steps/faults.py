"""Describe what user code raised, for log lines and dead letters: bounded, printable, whatever the exception does.

The methods of an exception are user code: `__str__` may raise, return 10 MB or send commands to a terminal. The standard
library's `traceback` calls them and trusts them. Here every call of them is guarded, and every text is cut and escaped.
"""

from __future__ import annotations

import os
import reprlib
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, TracebackType

_PACKAGE = str(Path(__file__).parent.parent) + os.sep

MAX_TEXT = 4_000  # characters
MAX_TRACEBACK = 16_000  # characters
_MAX_TYPE = 200  # characters of the name of a type
_MAX_ERRORS = 30  # exceptions of one traceback: causes, contexts and members of groups
_MAX_CAUSES = 12  # of one exception, one behind the other
_MAX_MEMBERS = 5  # members of one group
_MAX_DEPTH = 8  # groups in groups
_MAX_FRAMES = 24  # frames of one exception: half from each end
_MAX_NOTES = 5

_CAUSE = "The above exception was the direct cause of the following exception:"
_CONTEXT = "During handling of the above exception, another exception occurred:"


@dataclass(frozen=True, slots=True)
class Fault:
    """Describe an exception. All texts can be encoded as UTF-8, and none has a control character but as said.

    `type` is the name of its class, on one line. `text` is its text, which may have line breaks and tabs. `traceback` has several
    lines; the line breaks of the texts in it are escaped, so that each of its lines is what it looks like.
    """

    type: str
    text: str
    traceback: str

    @property
    def line(self) -> str:
        """Type and text on one line, with line breaks and tabs escaped, for log lines."""
        return _cut(f"{self.type}: {escaped(self.text)}" if self.text else self.type, MAX_TEXT)


def describe(error: BaseException) -> Fault:
    """Return the description of an exception. Never raises, and takes about a millisecond, whatever the exception is."""
    name = type_name(error)
    budget = _Budget(_MAX_ERRORS)
    text = _limited(budget.text(error), MAX_TEXT, keep="\n\t")
    try:
        lines = "\n".join(_chain(error, budget, 0))
    except BaseException as failure:  # noqa: BLE001  # user code may run, and the description must not fail
        lines = f"{name}\n(the traceback cannot be shown: {type_name(failure)})"
    return Fault(name, text, _cut(lines, MAX_TRACEBACK))


def type_name(error: object) -> str:
    """Return the name of an object's class, on one line. Never raises."""
    # By the descriptor of `type`, because a metaclass may have a `__name__` of its own.
    return _limited(type.__dict__["__name__"].__get__(type(error)), _MAX_TYPE)


def attribute(error: BaseException, base: type[BaseException], name: str) -> Any:
    """Return an attribute that `base`, a built-in class, gives to an exception. A subclass may have a property of that name."""
    return vars(base)[name].__get__(error)


def printable(value: object) -> str:
    """Return the `repr` of a value, or why there is none. Never raises."""
    try:
        return str.__getitem__(repr(value), slice(None))
    except BaseException as failure:  # noqa: BLE001  # `__repr__` is user code
        return f"<{type_name(value)} whose repr raised {type_name(failure)}>"


def escaped(text: str, *, keep: str = "") -> str:
    r"""Return `text` with an escape such as \x1b or \n in place of each character that is not printable and not in `keep`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def _own_text(error: BaseException) -> str:
    """Return the text of an exception, cut, as a plain `str`, or why there is none."""
    try:
        # A slice of a subclass's text by the method of `str`: the subclass may have methods of its own.
        return _cut(str.__getitem__(str(error), slice(None)), MAX_TEXT)
    except BaseException as failure:  # noqa: BLE001  # `__str__` is user code
        return f"<no text: __str__ raised {type_name(failure)}> args: {_arguments(error)}"


def _arguments(error: BaseException) -> str:
    try:
        return str.__getitem__(reprlib.repr(attribute(error, BaseException, "args")), slice(None))
    except BaseException as failure:  # noqa: BLE001  # `__repr__` is user code
        return f"<repr raised {type_name(failure)}>"


def _leaf(error: BaseException) -> BaseException:
    """Return the first exception in a group, or in its first group, that is no group itself."""
    for _ in range(_MAX_DEPTH):
        members = _members(error)
        if not members:
            break
        error = members[0]
    return error


def _members(error: BaseException) -> tuple[BaseException, ...]:
    if not issubclass(type(error), BaseExceptionGroup):  # `isinstance` would ask the exception for its `__class__`
        return ()
    members: tuple[BaseException, ...] = attribute(error, BaseExceptionGroup, "exceptions")
    return members


# -- tracebacks -----------------------------------------------------------------------------------------------------------


class _Budget:
    """Count the exceptions of one traceback, and know those that were shown, and texts: to make one may take long."""

    def __init__(self, left: int) -> None:
        self.left = left
        self._shown: set[int] = set()
        self._texts: dict[int, str] = {}

    def take(self, error: BaseException) -> str | None:
        """Return why an exception is not shown, or None."""
        if id(error) in self._shown:
            return f"[{type_name(error)}: shown already]"
        if not self.left:
            return "[more exceptions]"
        self.left -= 1
        self._shown.add(id(error))
        return None

    def text(self, error: BaseException) -> str:
        """Return the text of an exception. That of a group, which names only their number, is followed by the first members."""
        if id(error) not in self._texts:
            self._texts[id(error)] = _own_text(error)
        text, members = self._texts[id(error)], _members(error)
        if not members:
            return text
        first = [self._brief(_leaf(member)) for member in members[:_MAX_MEMBERS]]
        rest = f"; {len(members) - len(first)} more" if len(members) > len(first) else ""
        return f"{text}: {'; '.join(first)}{rest}"

    def _brief(self, leaf: BaseException) -> str:
        text = "..." if _members(leaf) else _limited(self.text(leaf), 500)
        return f"{type_name(leaf)}: {text}" if text else type_name(leaf)


def _chain(error: BaseException, budget: _Budget, depth: int) -> Iterator[str]:
    """Yield the lines of an exception, after those of what caused it, as Python prints them."""
    links: list[tuple[BaseException, str]] = [(error, "")]
    known = {id(error)}
    cause, link = _cause(error)
    while cause is not None and id(cause) not in known and len(links) < _MAX_CAUSES:
        known.add(id(cause))
        links.append((cause, link))
        cause, link = _cause(cause)
    if cause is not None and id(cause) not in known:
        yield from ("[earlier exceptions left out]", "", link, "")
    # The exception itself takes from the budget first: a long chain must not hide it.
    shown = [(member, link, budget.take(member)) for member, link in links]
    for member, link, refusal in reversed(shown):
        if refusal is not None:
            yield refusal
        else:
            yield from _one(member, budget, depth, has_cause=member is not links[-1][0])
        if link:
            yield from ("", link, "")


def _cause(error: BaseException) -> tuple[BaseException | None, str]:
    """Return what caused an exception, and how. By the descriptors of the base class: a subclass may have its own."""
    cause = attribute(error, BaseException, "__cause__")
    if cause is not None:
        return cause, _CAUSE
    hidden = attribute(error, BaseException, "__suppress_context__")
    return (None if hidden else attribute(error, BaseException, "__context__")), _CONTEXT


def _one(error: BaseException, budget: _Budget, depth: int, *, has_cause: bool) -> Iterator[str]:
    """Yield the lines of an exception without its causes: frames, type and text, notes, members."""
    trace: TracebackType | None = attribute(error, BaseException, "__traceback__")
    # Frames of this package alone tell users nothing that the exception's cause does not tell.
    if trace is not None and not (has_cause and _first_of_users(trace) is None):
        yield "Traceback (most recent call last):"
        yield from _frames(trace)
    text = _limited(budget.text(error), MAX_TEXT // 2)
    yield f"{type_name(error)}: {text}" if text else type_name(error)
    yield from _notes(error)
    members = _members(error)
    if members and depth >= _MAX_DEPTH:
        yield "  | [groups in groups]"
        return
    for number, member in enumerate(members[:_MAX_MEMBERS], 1):
        yield f"  +---------------- {number} ----------------"
        refusal = budget.take(member) if not budget.left else None
        lines = iter([refusal]) if refusal is not None else _chain(member, budget, depth + 1)
        yield from (f"  | {line}" for line in lines)
    if len(members) > _MAX_MEMBERS:
        yield f"  +- {len(members) - _MAX_MEMBERS} more"


def _notes(error: BaseException) -> Iterator[str]:
    try:
        notes: Any = object.__getattribute__(error, "__dict__").get("__notes__")
    except BaseException:  # noqa: BLE001  # a `__dict__` of its own
        return
    if isinstance(notes, list):
        for note in notes[:_MAX_NOTES]:
            yield _limited(str.__getitem__(note, slice(None)) if isinstance(note, str) else printable(note), 500)


def _frames(trace: TracebackType) -> Iterator[str]:
    """Yield the lines of the frames: all, or the first and the last of them."""
    frames: list[tuple[FrameType, int]] = []
    tail: TracebackType | None = _first_of_users(trace) or trace
    while tail is not None:
        frames.append((tail.tb_frame, tail.tb_lineno))
        tail = tail.tb_next
    half = _MAX_FRAMES // 2
    if len(frames) <= _MAX_FRAMES:
        yield from _frame_lines(frames)
    else:
        yield from _frame_lines(frames[:half])
        yield f"  [{len(frames) - _MAX_FRAMES} frames left out]"
        yield from _frame_lines(frames[-half:])


def _first_of_users(trace: TracebackType) -> TracebackType | None:
    """Return the part of a traceback from the first frame that is not of this package on, or None if all frames are."""
    tail: TracebackType | None = trace
    while tail is not None and tail.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        tail = tail.tb_next
    return tail


def _frame_lines(frames: list[tuple[FrameType, int]]) -> Iterator[str]:
    for frame, number in frames:
        code = frame.f_code
        summary = traceback.FrameSummary(code.co_filename, number, code.co_name)
        yield f'  File "{_limited(code.co_filename, 500)}", line {number}, in {_limited(code.co_name, 200)}'
        if summary.line:
            yield f"    {_limited(summary.line, 300)}"


# -- texts ----------------------------------------------------------------------------------------------------------------


def _limited(text: str, most: int, *, keep: str = "") -> str:
    """Return a text escaped and cut. It is cut before it is escaped, too: 10 MB take long to escape."""
    return _cut(escaped(_cut(text, most), keep=keep), most)


def _cut(text: str, most: int) -> str:
    """Return a text of at most `most` characters. A longer one loses its middle, and says so."""
    if len(text) <= most:
        return text
    left_out = f" [... {len(text) - most} characters left out ...] "
    kept = most - len(left_out)
    return text[: kept - kept // 2] + left_out + text[len(text) - kept // 2 :]
