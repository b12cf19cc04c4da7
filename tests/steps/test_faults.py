"""Descriptions of exceptions: bounded, printable and quick, whatever the exception does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from motia_redis._steps import invocation
from motia_redis._steps.faults import MAX_TEXT, MAX_TRACEBACK, Fault, describe, printable, type_name
from motia_redis._steps.invocation import call, call_in_task

FORGED = "no order x\n2026-11-26T12:00:00.000Z INFO forged\x1b[2K\x1b]0;owned\x07\r\0\x9b\u2028\u202e\ud800"


class Panic(BaseException):
    pass


class RaisesItself(Exception):
    def __str__(self) -> str:
        raise self

    __repr__ = __str__


class RaisesBase(Exception):
    def __str__(self) -> str:
        raise Panic

    __repr__ = __str__


class ReturnsNoText(Exception):
    def __str__(self) -> Any:
        return 5  # noqa: PLE0307

    __repr__ = __str__


class HostileText(str):
    """Text whose own methods raise."""

    __slots__ = ()

    def _refuse(self, *args: Any) -> Any:
        raise Panic

    __getitem__ = __len__ = __iter__ = __add__ = __contains__ = isprintable = encode = _refuse


class ReturnsHostileText(Exception):
    def __str__(self) -> str:
        return HostileText("text")


class RefusesEverything(BaseException):
    """Its attributes, which the standard library's `traceback` reads, raise."""

    def _refuse(self) -> Any:
        raise Panic

    __class__ = __dict__ = __cause__ = __context__ = __suppress_context__ = __traceback__ = args = property(_refuse)  # type: ignore[assignment]


class RefusingGroup(ExceptionGroup[ValueError]):
    exceptions = property(lambda self: 1 / 0)  # type: ignore[assignment]


class Meta(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise Panic


class OfMeta(Exception, metaclass=Meta):
    pass


class Recursive(Exception):
    def __str__(self) -> str:
        return f"{self}"


class Long(Exception):
    def __str__(self) -> str:
        return "begin" + FORGED * 150_000 + "end"


def raised(error: BaseException) -> BaseException:
    """Return an exception with a traceback."""
    try:
        raise error  # noqa: TRY301
    except BaseException as same:  # noqa: BLE001
        return same


def chained(length: int) -> BaseException:
    error: BaseException = ValueError("first")
    for number in range(length):
        following = raised(ValueError(number))
        following.__cause__ = error
        error = following
    return error


def circle() -> BaseException:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__context__ = two, one
    return one


def nested(depth: int) -> BaseException:
    group: Exception = KeyError("innermost")
    for number in range(depth):
        group = ExceptionGroup(f"level {number}", [group, ValueError("beside")])
    return group


def recursion() -> BaseException:
    def call() -> None:
        call()

    try:
        call()
    except RecursionError as error:
        return error
    raise AssertionError


def with_notes(notes: Any) -> BaseException:
    error = ValueError("noted")
    error.__notes__ = notes
    return error


HOSTILE = {
    "raises itself": lambda: RaisesItself(1),
    "raises a BaseException": lambda: RaisesBase(RaisesBase()),
    "returns no text": ReturnsNoText,
    "returns hostile text": ReturnsHostileText,
    "refuses everything": lambda: RefusesEverything("x"),
    "refusing group": lambda: RefusingGroup("g", [ValueError()]),
    "metaclass": lambda: OfMeta("x"),
    "recursive text": Recursive,
    "10 MB": Long,
    "argument of 10 MB": lambda: ValueError(FORGED * 200_000),
    "key of 10 MB": lambda: KeyError(FORGED * 200_000),
    "name of its class": lambda: type(f"Bad{'x' * 100_000}\n\x1b[2J", (Exception,), {})("x"),
    "chain": lambda: chained(5_000),
    "circle": circle,
    "nested groups": lambda: nested(500),
    "wide group": lambda: BaseExceptionGroup("wide", [Long(), Panic(), *(ValueError(n) for n in range(100_000))]),
    "recursion": recursion,
    "notes": lambda: with_notes([FORGED * 10_000, 5, RaisesItself(), *["note"] * 10_000]),
    "no notes": lambda: with_notes(7),
    "forged": lambda: ValueError(FORGED),
    "surrogates": lambda: ValueError("\ud800\udfff" * 5_000),
    "exit": lambda: SystemExit(RaisesBase()),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
def test_any_exception_has_a_bounded_printable_description(make: Any) -> None:
    fault = describe(raised(make()))
    assert len(fault.type) <= 200
    assert len(fault.text) <= MAX_TEXT
    assert len(fault.traceback) <= MAX_TRACEBACK
    assert len(fault.line) <= MAX_TEXT
    assert (fault.type + fault.line).isprintable()
    for text in (fault.text, fault.traceback):
        assert type(text) is str
        assert all(c.isprintable() or c in "\n\t" for c in text)
        text.encode()


def test_text_keeps_its_line_breaks_and_a_log_line_escapes_them() -> None:
    fault = describe(ValueError("two\nlines\tand\x1b[2J"))
    assert fault.text == "two\nlines\tand\\x1b[2J"
    assert fault.line == "ValueError: two\\nlines\\tand\\x1b[2J"
    assert fault.traceback == "ValueError: two\\nlines\\tand\\x1b[2J"
    assert describe(ValueError()) == Fault("ValueError", "", "ValueError")
    assert describe(ValueError()).line == "ValueError"


def test_line_of_a_traceback_cannot_be_forged_by_a_text() -> None:
    traceback = describe(raised(with_notes([FORGED]))).traceback + describe(raised(ValueError(FORGED))).traceback
    assert not [line for line in traceback.splitlines() if line.startswith("2026")]
    assert "\x1b" not in traceback


def test_long_text_loses_its_middle_and_says_so() -> None:
    text = describe(Long()).text
    assert text.startswith("begin")
    assert text.endswith("end")
    assert "characters left out" in text


def test_exception_without_a_text_names_the_reason_and_the_arguments() -> None:
    assert describe(ReturnsNoText("order", 7)).text == "<no text: __str__ raised TypeError> args: ('order', 7)"


def test_group_names_its_first_members() -> None:
    group = ExceptionGroup("unhandled", [ValueError("order"), nested(2), *(KeyError(n) for n in range(4))])
    assert describe(group).text == (
        "unhandled (6 sub-exceptions): ValueError: order; KeyError: 'innermost'; KeyError: 0; KeyError: 1; KeyError: 2; 1 more"
    )


def test_traceback_shows_frames_causes_contexts_and_members_as_python_does() -> None:
    def fails() -> None:
        raise ValueError("the first")

    def fails_again() -> None:
        try:
            fails()
        except ValueError as error:
            raise KeyError("the second") from error

    try:
        try:
            fails_again()
        except KeyError:
            raise ExceptionGroup("the last", [TypeError("a member")])  # noqa: B904
    except ExceptionGroup as error:
        lines = describe(error).traceback.splitlines()
    order = [
        "Traceback (most recent call last):",
        '    raise ValueError("the first")',
        "ValueError: the first",
        "The above exception was the direct cause of the following exception:",
        '    raise KeyError("the second") from error',
        "KeyError: 'the second'",
        "During handling of the above exception, another exception occurred:",
        "ExceptionGroup: the last (1 sub-exception): TypeError: a member",
        "  | TypeError: a member",
    ]
    places = [lines.index(line) for line in order]
    assert places == sorted(places)
    assert any(line.startswith(f'  File "{__file__}", line ') and line.endswith(", in fails") for line in lines)


async def test_traceback_begins_with_the_frames_of_the_user() -> None:
    async def fails(input: Any) -> None:
        int(input)

    lines: list[str] = []
    try:
        await call_in_task(fails, "x", None)
    except ValueError as error:
        # Without the frame of this test, and so as the caller in this package sees it.
        lines = describe(
            error.with_traceback(error.__traceback__.tb_next if error.__traceback__ else None)
        ).traceback.splitlines()
    assert lines[1].startswith(f'  File "{__file__}", line ')
    assert lines[1].endswith(", in fails")


async def test_traceback_of_a_cancelled_function_has_only_its_frames() -> None:
    began = asyncio.Event()

    async def waits(input: Any) -> None:
        began.set()
        await asyncio.Event().wait()

    async def caller() -> str:
        try:
            await call(waits, None, None, None)
        except asyncio.CancelledError as error:
            # As the worker sees it: without the frame of this test.
            return describe(error.with_traceback(error.__traceback__.tb_next if error.__traceback__ else None)).traceback
        raise AssertionError

    task = asyncio.create_task(caller())
    await began.wait()
    task.cancel()
    traceback = await task
    assert ", in waits" in traceback
    assert str(Path(invocation.__file__).parent) not in traceback


async def test_frames_of_this_package_are_not_shown_beside_the_cause() -> None:
    async def fails(input: Any) -> None:
        raise SystemExit(3)

    with pytest.raises(RuntimeError) as caught:
        await call(fails, None, None, None)
    # As the worker sees it: without the frame of this test.
    trace = caught.value.__traceback__
    lines = describe(caught.value.with_traceback(trace.tb_next if trace else None)).traceback.splitlines()
    assert "    raise SystemExit(3)" in lines
    assert lines[-4:] == [
        "",
        "The above exception was the direct cause of the following exception:",
        "",
        "RuntimeError: the function called sys.exit(3)",
    ]


def test_suppressed_context_is_not_shown() -> None:
    error = raised(ValueError("shown"))
    error.__context__ = ValueError("context")
    assert "context" in describe(error).traceback
    error.__suppress_context__ = True
    assert "context" not in describe(error).traceback


def test_long_chain_keeps_the_exception_itself() -> None:
    traceback = describe(chained(5_000)).traceback
    assert "ValueError: 4999" in traceback
    assert traceback.startswith("[earlier exceptions left out]")


def test_repr_that_raises_names_the_reason() -> None:
    assert printable(RaisesBase()) == "<RaisesBase whose repr raised Panic>"
    assert printable([1]) == "[1]"
    assert type_name(OfMeta()) == "OfMeta"
