"""Logging for steps: the logger that handlers use, and the two line formats of the command.

A library must not configure logging. Only the `motia-redis` command calls `configure_logging`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import orjson

from motia_redis._steps.faults import describe, escaped, printable
from motia_redis._store import values
from motia_redis._tracing import current_trace_id

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

LOGGER_NAME = "motia_redis.step"
_log = logging.getLogger("motia_redis")

_step_name: ContextVar[str | None] = ContextVar("motia_redis_step_name", default=None)


def enter_step(name: str) -> None:
    """Make `name` the step that lines of the global `logger` are attributed to, for what follows in this task."""
    _step_name.set(name)


def current_step() -> str | None:
    """Return the name of the step that runs here, or None outside of a handler."""
    return _step_name.get()


@contextmanager
def running_step(name: str) -> Iterator[None]:
    """Make `name` the step that lines of the global `logger` are attributed to inside the block."""
    token = _step_name.set(name)
    try:
        yield
    finally:
        _step_name.reset(token)


class Logger:
    """Log messages with fields: each method takes a message and a dict.

    It writes to the standard library's logger `motia_redis.step`; every record carries the attributes `step`,
    `trace_id` and `fields`. Its message, as any formatter writes it, ends with the fields: `order shipped order=7`. A field never
    makes a call raise. Without `step`, records name the step that runs at the time.
    """

    __slots__ = ("_logger", "step")

    def __init__(self, step: str | None = None) -> None:
        self.step: str | None = step
        self._logger = logging.getLogger(LOGGER_NAME)

    def debug(self, message: object, fields: Mapping[str, Any] | None = None) -> None:
        """Log `message` with `fields` at level DEBUG."""
        self._write(logging.DEBUG, message, fields)

    def info(self, message: object, fields: Mapping[str, Any] | None = None) -> None:
        """Log `message` with `fields` at level INFO."""
        self._write(logging.INFO, message, fields)

    def warning(self, message: object, fields: Mapping[str, Any] | None = None) -> None:
        """Log `message` with `fields` at level WARNING."""
        self._write(logging.WARNING, message, fields)

    def warn(self, message: object, fields: Mapping[str, Any] | None = None) -> None:
        """Do what `warning` does, under the name Motia gives it."""
        self._write(logging.WARNING, message, fields)

    def error(self, message: object, fields: Mapping[str, Any] | None = None) -> None:
        """Log `message` with `fields` at level ERROR."""
        self._write(logging.ERROR, message, fields)

    def exception(self, message: object, fields: Mapping[str, Any] | None = None) -> None:
        """Log `message` with `fields` and the traceback of the exception being handled at level ERROR."""
        self._write(logging.ERROR, message, fields, exc_info=sys.exc_info()[0] is not None)

    def _write(self, level: int, message: object, fields: object, *, exc_info: bool = False) -> None:
        if not self._logger.isEnabledFor(level):
            return
        if fields is None:
            fields = {}
        elif not isinstance(fields, Mapping):
            fields = {"value": fields}
        extra = {"step": self.step or _step_name.get(), "trace_id": current_trace_id(), "fields": fields}
        # stacklevel 3: past this method and the one that called it, to the line of the handler.
        self._logger.log(level, _Message(_text(message), fields), exc_info=exc_info, extra=extra, stacklevel=3)


logger: Logger = Logger()
"""The logger for code that has no `ctx.logger` at hand."""


class _Message(str):
    """The message of a record. `str()` of it, which is what a formatter writes, ends with the fields."""

    __slots__ = ("_fields",)

    def __new__(cls, text: str, fields: Mapping[Any, Any]) -> Self:
        message = super().__new__(cls, str.__getitem__(text, slice(None)))
        message._fields = fields
        return message

    _fields: Mapping[Any, Any]

    def __str__(self) -> str:
        text = self[:]
        try:
            return " ".join([text, *(escaped(field) for field in _shown_fields(self._fields))])
        except BaseException as error:  # noqa: BLE001  # a field of the user's; logging itself would print a raw traceback
            return f"{text} (its fields could not be written: {describe(error).line})"


class TextFormatter(logging.Formatter):
    """One line for people: time, level, process, step, first 8 digits of the trace id, message, fields.

    A traceback follows in lines that begin with a bar, which no other line does. Nothing that is logged can end the line or send
    commands to the terminal: what is not printable is escaped, as in a Python string.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for `record`, followed by the traceback if it carries one. Never raises."""
        try:
            return self._line(record)
        except BaseException as error:  # noqa: BLE001  # a field of the user's; logging itself would print a raw traceback
            return f"{_time(record)} {record.levelname:<7} {os.getpid()} a record could not be formatted: {describe(error).line}"

    def _line(self, record: logging.LogRecord) -> str:
        step, trace_id, fields = _attributes(record)
        parts = [
            _time(record),
            f"{record.levelname:<7}",
            str(os.getpid()),
            step or record.name,
            (trace_id or "-")[:8],
            _message(record),
        ]
        parts += _shown_fields(fields)
        details = _details(record)
        return escaped(" ".join(parts)) + "".join(f"\n  | {escaped(line)}" for line in details.split("\n") if line)


class JsonFormatter(logging.Formatter):
    """One JSON object a line for machines: time, level, pid, logger, step, trace_id, message, fields, exception.

    What is not printable is escaped as JSON does, also where JSON would not ask for it: a line may end up in a terminal.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the JSON object for `record`. Never raises."""
        try:
            return _json_line(self._entry(record))
        except BaseException as error:  # noqa: BLE001  # a field of the user's; logging itself would print a raw traceback
            message = f"a record could not be formatted: {describe(error).line}"
            return _json_line({"time": _time(record), "level": record.levelname.lower(), "pid": os.getpid(), "message": message})

    def _entry(self, record: logging.LogRecord) -> dict[str, Any]:
        step, trace_id, fields = _attributes(record)
        entry: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "pid": os.getpid(),
            "logger": record.name,
            "step": step,
            "trace_id": trace_id,
            "message": _scrub(_message(record)),
            # Encoded one by one, so that a field that JSON cannot hold does not change how the others are written.
            "fields": {_scrub(_text(key)): orjson.Fragment(_encode(value)) for key, value in fields.items()},
        }
        if details := _details(record):
            entry["exception"] = details
        return entry


def configure_logging(level: str | int, format: Literal["text", "json"] = "text") -> None:
    """Send every record of the process from `level` up to standard error in one of the two formats.

    Only the entry point of an application may call this function. A second call replaces the settings of the first one.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old.formatter, TextFormatter | JsonFormatter)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper() if isinstance(level, str) else level)
    # uvicorn logs its start and stop at INFO, and the command prints the same facts itself.
    logging.getLogger("uvicorn").setLevel(max(root.level, logging.WARNING))


def log_uncaught() -> None:
    """Log what Python itself would print to standard error as it is: warnings, and exceptions that nobody catches.

    Only the entry point of an application may call this function.
    """

    def in_thread(caught: threading.ExceptHookArgs) -> None:
        if caught.exc_value is not None and not issubclass(caught.exc_type, SystemExit):
            name = caught.thread.name if caught.thread is not None else "unknown"
            _log.error("uncaught in thread %s", name, exc_info=caught.exc_value)

    def in_process(kind: type[BaseException], error: BaseException, _: object) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            _log.critical("uncaught", exc_info=error)

    def unraisable(caught: sys.UnraisableHookArgs) -> None:
        _log.error("%s: %s", caught.err_msg or "exception ignored", printable(caught.object), exc_info=caught.exc_value)

    threading.excepthook, sys.excepthook, sys.unraisablehook = in_thread, in_process, unraisable
    logging.captureWarnings(True)


def write_record(text: str, format: Literal["text", "json"]) -> None:
    """Write a warning to standard error in one of the two formats, past the locks of logging, which another thread may hold."""
    record = logging.makeLogRecord({"name": "motia_redis", "levelno": logging.WARNING, "levelname": "WARNING", "msg": text})
    line = (JsonFormatter() if format == "json" else TextFormatter()).format(record)
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{line}\n".encode())


def _attributes(record: logging.LogRecord) -> tuple[str | None, str | None, Mapping[Any, Any]]:
    """Return step, trace id and fields of a record of any logger."""
    step = getattr(record, "step", None) or _step_name.get()
    trace_id = getattr(record, "trace_id", None) or current_trace_id()
    fields = getattr(record, "fields", None)
    return (
        step if isinstance(step, str) else None,
        trace_id if isinstance(trace_id, str) else None,
        fields if isinstance(fields, Mapping) else {},
    )


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    """Return the message of a record, without fields."""
    if isinstance(record.msg, _Message):
        return record.msg[:]
    try:
        return str.__getitem__(record.getMessage(), slice(None))
    except BaseException:  # noqa: BLE001  # the arguments do not fit the format, or have no usable text
        return f"{_text(record.msg)} {printable(record.args)}"


def _details(record: logging.LogRecord) -> str:
    """Return the traceback and the stack of a record, each line printable."""
    parts = []
    if record.exc_info and record.exc_info[1] is not None:
        parts.append(describe(record.exc_info[1]).traceback)
    if record.stack_info:
        parts.append(escaped(record.stack_info, keep="\n"))
    return "\n".join(parts)


def _shown_fields(fields: Mapping[Any, Any]) -> list[str]:
    return [f"{_text(key)}={_text_value(value)}" for key, value in fields.items()]


def _text_value(value: object) -> str:
    """Return a field's value bare if it is plain text, else as JSON."""
    plain = isinstance(value, str) and value != "" and not any(c.isspace() or c in '="' for c in value)
    return str(value) if plain else _encode(value).decode()


def _encode(value: object) -> bytes:
    """Return `value` as JSON; what JSON cannot hold is written as the text of its `repr`."""
    try:
        text = orjson.dumps(value, default=printable, option=orjson.OPT_NON_STR_KEYS)
        form = values.plain_form(value)
        if form is None:
            orjson.loads(text)  # there may be an `orjson.Fragment` in it, which may hold any text
        elif b"null" in text and values.may_hold_nonfinite(value, form):
            return orjson.dumps(_scrub(_text(value)))
    except (TypeError, ValueError, RecursionError):  # a 65-bit int, a lone surrogate, a list that holds itself
        return orjson.dumps(_scrub(_text(value)))
    return text


def _json_line(entry: dict[str, Any]) -> str:
    line = orjson.dumps(entry).decode()
    if line.isprintable():
        return line
    # Such characters stand inside of strings only. An escape of JSON has four digits: one beyond them is written as two.
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def _text(value: object) -> str:
    """Return text as it is, and the `repr` of anything else."""
    return value if isinstance(value, str) else printable(value)


def _scrub(text: str) -> str:
    """Return `text` with lone surrogates escaped, so that it can be written as UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
