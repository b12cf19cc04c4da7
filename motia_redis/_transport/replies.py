"""Convert replies of RESP3 to the forms that this package uses. Replies of other commands stay as hiredis gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def convert(command: Any, reply: Any) -> Any:
    """Return the reply of a command, named as it was given, in its form."""
    converter = _CONVERTERS.get(command)
    return reply if converter is None or isinstance(reply, Exception) else converter(reply)


def _pairs(flat: list[Any] | None) -> dict[Any, Any]:
    """Return fields and values that follow each other as a dict."""
    if flat is None:
        return {}
    parts = iter(flat)
    return dict(zip(parts, parts, strict=True))


def _entries(reply: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Return stream entries as pairs of id and fields. An entry that was deleted has no fields."""
    return [(entry_id, _pairs(fields)) for entry_id, fields in reply or []]


def _streams(reply: Any) -> dict[bytes, list[tuple[bytes, dict[bytes, bytes]]]]:
    """Return stream entries by stream."""
    return {stream: _entries(entries) for stream, entries in (reply or {}).items()}


def _hash_page(reply: Any) -> tuple[int, dict[bytes, bytes]]:
    return int(reply[0]), _pairs(reply[1])


def _set_page(reply: Any) -> tuple[int, list[bytes]]:
    return int(reply[0]), reply[1]


def _time(reply: Any) -> tuple[int, int]:
    return int(reply[0]), int(reply[1])


def _text_keys(reply: Any) -> dict[str, Any]:
    return {name.decode(): value for name, value in reply.items()}


def _info(reply: Any) -> dict[str, Any]:
    """Return the lines of INFO by name. Numbers are int or float."""
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else reply
    lines = (line.partition(":") for line in text.splitlines() if ":" in line and not line.startswith("#"))
    return {name: _number(value) for name, _, value in lines}


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "HSCAN": _hash_page,
    "SSCAN": _set_page,
    "XRANGE": _entries,
    "XREVRANGE": _entries,
    "XREAD": _streams,
    "XINFO STREAM": _text_keys,
    "TIME": _time,
    "INFO": _info,
}
