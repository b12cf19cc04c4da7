"""Print values: for a person at a terminal, and for programs that read them."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from motia_redis._cli.output import table
from motia_redis._steps.faults import escaped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from motia_redis._store.reading import Entry

_COLOURS = {"name": "blue", "string": "green", "number": "cyan", "word": "magenta"}

FORMATS = ("text", "json", "jsonl", "table")


def output_option(*formats: str) -> Callable[[Any], Any]:
    """Return the option `--output` with these formats."""
    text = "Format of the result. By default one for a person at a terminal, and one for a program elsewhere."
    return click.option("-o", "--output", type=click.Choice(formats or FORMATS), help=text)


def is_terminal() -> bool:
    """Return whether the results go to a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def has_colours(*, error: bool = False) -> bool:
    """Return whether results (or messages) may have colours: at a terminal, unless $NO_COLOR is set."""
    stream = sys.stderr if error else sys.stdout
    is_wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return is_wanted and stream is not None and stream.isatty()


def note(text: str) -> None:
    """Tell a person something beside the result: on standard error, if that is a terminal."""
    if sys.stderr is not None and sys.stderr.isatty():
        click.echo(escaped(text), err=True)


def styled(text: str, colour: str, *, error: bool = False) -> str:
    """Return text of a result (or of a message) in a colour, where there may be colours."""
    return click.style(text, fg=colour) if colour and has_colours(error=error) else text


def pretty(text: str, *, has_colours: bool = False) -> str:
    """Return JSON text on several lines, with the same numbers."""
    from motia_redis._store.json_texts import indented  # noqa: PLC0415 - slow

    return indented(text, _coloured if has_colours else None)


def _coloured(token: str, is_name: bool) -> str:
    if token[0] in "{}[],:":
        return token
    kind = "name" if is_name else "string" if token[0] == '"' else "number" if token[0] in "-0123456789" else "word"
    return click.style(token, fg=_COLOURS[kind])


def print_value(text: str, output: str | None) -> None:
    """Print one JSON text: indented for a person, else on one line."""
    output = output or ("text" if is_terminal() else "json")
    click.echo(pretty(text, has_colours=has_colours()) if output == "text" else text)


def print_entry(scope: str, key: str, entry: Entry[str], output: str | None) -> None:
    """Print a value in any of the formats. A person also sees its revision, beside the result."""
    output = output or ("text" if is_terminal() else "json")
    if output == "jsonl":
        click.echo(entry_line(scope, key, entry))
    elif output == "table":
        table(["KEY", "REVISION", "EXPIRES", "VALUE"], [[escaped(key), entry.revision, _moment(entry.expires_at), entry.value]])
    else:
        print_value(entry.value, output)
        expires = "" if entry.expires_at is None else f", expires {_moment(entry.expires_at)}"
        note(f"revision {entry.revision}{expires}")


def entry_line(scope: str, key: str, entry: Entry[str]) -> str:
    """Return a value with its revision as a JSON object on one line."""
    facts = {"scope": scope, "key": key, "revision": entry.revision, "expires_at": entry.expires_at}
    return json_line(facts, value=entry.value)


def json_line(facts: dict[str, Any], **texts: str | None) -> str:
    """Return a JSON object on one line: facts, and then members that are JSON texts already; those that are None are left out."""
    import json  # noqa: PLC0415

    from motia_redis._store.json_texts import quoted  # noqa: PLC0415 - slow

    members = [f'"{name}":{quoted(fact) if isinstance(fact, str) else json.dumps(fact)}' for name, fact in facts.items()]
    members += [f'"{name}":{text}' for name, text in texts.items() if text is not None]
    return "{" + ",".join(members) + "}"


def print_lines(lines: Iterable[str]) -> None:
    """Print lines by one write."""
    click.echo("".join(f"{line}\n" for line in lines), nl=False)


def _moment(seconds: float | None) -> str:
    return "never" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%SZ}"
