"""Logging from steps: what a record carries, and the two line formats."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from motia_redis._steps.logs import LOGGER_NAME, JsonFormatter, Logger, TextFormatter, configure_logging, logger, running_step
from motia_redis._tracing import trace

if TYPE_CHECKING:
    from collections.abc import Iterator

TRACE_ID = "0123456789abcdef" * 2


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


CYCLE: list[Any] = []
CYCLE.append(CYCLE)
HOSTILE = {
    "set": {1},
    "huge": 2**70,
    "surrogate": "\ud800",
    "broken": Broken(),
    "cycle": CYCLE,
    "bytes": b"\xff",
    ("a", "key"): 1,
    "\ud800key": 1,
    "nested": {"deep": [object(), {2**70: Broken()}]},
    "nan": float("nan"),
    "infinite": [None, {"a": float("-inf")}],
    "fragment": {"a": orjson.Fragment(b'1, "forged": {')},
}


def record_of(caplog: pytest.LogCaptureFixture) -> Any:
    assert len(caplog.records) == 1
    return caplog.records[0]


def formatted(formatter: logging.Formatter, *args: Any, method: str = "info", step: str | None = "S") -> str:
    """Return what `formatter` makes of one call of a Logger method."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    target = logging.getLogger(LOGGER_NAME)
    target.addHandler(handler)
    before = target.level
    target.setLevel(logging.DEBUG)
    try:
        getattr(Logger(step), method)(*args)
    finally:
        target.removeHandler(handler)
        target.setLevel(before)
    stream.flush()
    return stream.buffer.getvalue().decode()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(
    ("method", "level"),
    [
        ("debug", logging.DEBUG),
        ("info", logging.INFO),
        ("warn", logging.WARNING),
        ("warning", logging.WARNING),
        ("error", logging.ERROR),
        ("exception", logging.ERROR),
    ],
)
def test_each_method_logs_at_its_level_with_step_trace_and_fields(
    method: str, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, LOGGER_NAME)
    with trace(TRACE_ID):
        getattr(Logger("OnUser"), method)("hello 100%s", {"user_id": "u1"})
    record = record_of(caplog)
    assert record.name == "motia_redis.step"
    assert (record.levelno, record.msg, record.getMessage()) == (level, "hello 100%s", "hello 100%s user_id=u1")
    assert (record.step, record.trace_id, record.fields) == ("OnUser", TRACE_ID, {"user_id": "u1"})


def test_a_record_names_the_line_that_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER_NAME)
    Logger("S").info("here")
    assert record_of(caplog).funcName == "test_a_record_names_the_line_that_logged"


def test_the_global_logger_names_the_step_that_runs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER_NAME)
    with running_step("Running"):
        logger.info("inside")
    logger.info("outside")
    assert [record.step for record in caplog.records] == ["Running", None]  # type: ignore[attr-defined]


def test_fields_that_are_no_dict_do_not_raise(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER_NAME)
    Logger("S").info("m", ["a", "list"])  # type: ignore[arg-type]
    assert record_of(caplog).fields == {"value": ["a", "list"]}


def test_any_formatter_writes_the_fields_behind_the_message() -> None:
    text = formatted(logging.Formatter("%(levelname)s %(message)s"), "shipped", {"order": 7, "to": "Ann Lee\n"})
    assert text == 'INFO shipped order=7 to="Ann Lee\\n"\n'


def test_hostile_fields_do_not_break_another_formatter() -> None:
    text = formatted(logging.Formatter("%(message)s"), "shipped", HOSTILE)
    assert text.startswith("shipped set=")
    assert len(text.splitlines()) == 1


def test_text_is_one_line_with_time_level_pid_step_trace_message_and_fields() -> None:
    with trace(TRACE_ID):
        line = formatted(TextFormatter(), "User\nin", {"id": "u1", "name": "A B", "n": 1, "tags": ["x"], "empty": ""})
    time, level, pid, step, trace_id, rest = line.split(maxsplit=5)
    assert time.endswith("Z")
    assert "T" in time
    assert (level, step, trace_id) == ("INFO", "S", "01234567")
    assert pid.isdigit()
    assert rest == 'User\\nin id=u1 name="A B" n=1 tags=["x"] empty=""\n'


@pytest.mark.parametrize("value", ["a\nFORGED", "a\x1b[2J", "a\u2028b", "a\x85b"])
def test_no_text_can_break_the_line(value: str) -> None:
    line = formatted(TextFormatter(), value, {"field": value, value: 1})
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line


def test_json_is_one_object_a_line() -> None:
    with trace(TRACE_ID):
        line = formatted(JsonFormatter(), "User\nin", {"id": "u1", "at": [1, {"a": None}]})
    assert line.count("\n") == 1
    entry = json.loads(line)
    assert entry["level"] == "info"
    assert (entry["step"], entry["trace_id"], entry["message"]) == ("S", TRACE_ID, "User\nin")
    assert entry["fields"] == {"id": "u1", "at": [1, {"a": None}]}
    assert entry["time"].endswith("Z")
    assert isinstance(entry["pid"], int)


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()], ids=["text", "json"])
def test_no_field_makes_a_call_raise_or_costs_the_others(
    formatter: logging.Formatter, capsys: pytest.CaptureFixture[str]
) -> None:
    line = formatted(formatter, "message \ud800", {**HOSTILE, "good": "kept"})
    assert "Logging error" not in capsys.readouterr().err
    assert len(line.splitlines()) == 1
    assert "kept" in line
    assert str(2**70) in line
    if isinstance(formatter, JsonFormatter):
        fields = json.loads(line)["fields"]
        assert fields["good"] == "kept"
        assert fields["nan"] == "nan"
        assert fields["infinite"] == "[None, {'a': -inf}]"
        assert "forged" not in fields


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()], ids=["text", "json"])
def test_exception_carries_the_traceback(formatter: logging.Formatter) -> None:
    try:
        int("no number")
    except ValueError:
        line = formatted(formatter, "failed", method="exception")
    assert "Traceback" in line
    assert "ValueError: invalid literal" in line


FORGED = "no order x\n2026-11-26T12:00:00.000Z INFO    1 Admin deadbeef paid\x1b[2K\x1b]0;owned\x07\r\x9b2J\u2028\x85\x7f\u202e"


class Unprintable(Exception):
    def __str__(self) -> str:
        raise GeneratorExit

    __repr__ = __str__


def errors() -> list[BaseException]:
    noted = ValueError(FORGED)
    noted.add_note(FORGED)
    noted.__cause__ = KeyError(FORGED)
    return [
        noted,
        ExceptionGroup(FORGED, [ValueError(FORGED), noted]),
        type(FORGED, (Exception,), {})(FORGED),
        Unprintable(FORGED),
    ]


@pytest.mark.parametrize("error", errors(), ids=["text, note and cause", "group", "name of the class", "no text"])
@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()], ids=["text", "json"])
def test_exception_cannot_forge_a_record_or_send_commands_to_the_terminal(
    formatter: logging.Formatter, error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        raise error  # noqa: TRY301
    except BaseException:  # noqa: BLE001
        record = formatted(formatter, FORGED, {"error": error}, method="exception", step=FORGED)
    assert capsys.readouterr().err == ""  # where logging reports an error of the formatter
    assert all(c.isprintable() or c == "\n" for c in record)
    first, *others = record.splitlines()
    assert first.isprintable()
    assert all(line.startswith("  | ") for line in others)
    assert "Traceback (most recent call last)" in record
    if isinstance(formatter, JsonFormatter):
        assert not others
        assert json.loads(first)["message"] == FORGED


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()], ids=["text", "json"])
def test_arguments_without_a_usable_text_do_not_break_a_record(
    formatter: logging.Formatter, capsys: pytest.CaptureFixture[str]
) -> None:
    record = logging.makeLogRecord({"name": "n", "msg": "step %s failed: %r", "args": ("S", Unprintable()), "levelname": "INFO"})
    assert "step %s failed" in formatter.format(record)
    assert "whose repr raised GeneratorExit" in formatter.format(record)
    record = logging.makeLogRecord({"name": "n", "msg": Unprintable(), "levelname": "INFO"})
    assert "whose repr raised GeneratorExit" in formatter.format(record)


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()], ids=["text", "json"])
def test_fields_that_cannot_be_read_do_not_break_a_record(formatter: logging.Formatter) -> None:
    class Fields(dict[str, Any]):
        def items(self) -> Any:
            raise GeneratorExit(FORGED)

    record = logging.makeLogRecord({"name": "n", "msg": "m", "levelname": "INFO", "fields": Fields(a=1)})
    line = formatter.format(record)
    assert line.isprintable()
    assert "could not be formatted: GeneratorExit" in line


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()], ids=["text", "json"])
def test_stack_is_part_of_the_record(formatter: logging.Formatter) -> None:
    record = logging.makeLogRecord({"name": "n", "msg": "m", "levelname": "INFO", "stack_info": f"Stack:\n{FORGED}"})
    first, *others = formatter.format(record).splitlines()
    assert first.isprintable()
    assert all(line.startswith("  | ") and line.isprintable() for line in others)
    assert "Stack:" in formatter.format(record)


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    uvicorn = logging.getLogger("uvicorn")
    level, handlers, uvicorn_level = root.level, root.handlers[:], uvicorn.level
    yield root
    root.setLevel(level)
    root.handlers[:] = handlers
    uvicorn.setLevel(uvicorn_level)


def test_configuring_twice_writes_each_line_once_in_the_last_format(
    root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("debug")
    configure_logging("info", "json")
    logging.getLogger("some.library").info("from a library with %s", "arguments")
    logging.getLogger("some.library").debug("too low")
    lines = capsys.readouterr().err.splitlines()
    assert [json.loads(line)["message"] for line in lines] == ["from a library with arguments"]


def test_importing_the_package_configures_no_logging() -> None:
    script = "import logging, motia_redis._steps.logs, motia_redis._web.endpoint; print(logging.getLogger().handlers)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
