"""Define the arguments and options of the commands that read and change values."""

from __future__ import annotations

import json
import re
import sys
import time
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from motia_redis._cli.completing import complete_keys, complete_scopes
from motia_redis._cli.options import CommandError, stack

if TYPE_CHECKING:
    from motia_redis._store.expiry import Ttl

#: Settings of a command with an argument that may be a negative number. What is no option at all is then one argument too many.
NEGATIVE_NUMBERS = {"ignore_unknown_options": True}


def seconds(value: str) -> float:
    """Return a duration in seconds. As the type of an option: raises BadParameter."""
    from motia_redis._store.times import parse_duration  # noqa: PLC0415 - slow

    try:
        return parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def time_to_live(value: str) -> Ttl:
    """Return the `ttl` of a call for a duration, `never` or `keep`. Raises BadParameter."""
    from motia_redis._store.expiry import KEEP  # noqa: PLC0415 - slow

    words: dict[str, Ttl] = {"never": None, "keep": KEEP}
    return words[value] if value in words else seconds(value)


def moment(value: str) -> float | datetime:
    """Return Unix seconds, or a date and time with its time zone. Raises BadParameter."""
    with suppress(ValueError):
        return float(value)
    with suppress(ValueError):
        found = datetime.fromisoformat(value)
        if found.utcoffset() is not None:
            return found
    text = "write Unix seconds, or a date and time with its time zone: 2030-01-31T08:00:00+01:00"
    raise click.BadParameter(f"{value!r} is not a time; {text}")


def past(value: str) -> float | datetime | str:
    """Return a revision as it is, a time that has passed, such as "2h ago", in Unix seconds, or else what `moment` returns.

    As the type of an option: raises BadParameter.
    """
    if re.fullmatch(r"\d+-\d+", value):
        return value
    if value.endswith(" ago"):
        return time.time() - seconds(value.removesuffix(" ago"))
    try:
        return moment(value)
    except click.BadParameter:
        accepted = "2030-01-31T08:00:00+01:00, Unix seconds, '2h ago', or a revision such as 1700000000000-0"
        raise click.BadParameter(f"{value!r} is neither a time with its time zone nor a revision; write {accepted}") from None


scope_argument = click.argument("scope", shell_complete=complete_scopes)
key_argument = click.argument("key", shell_complete=complete_keys)
prefix_option = click.option("--prefix", metavar="TEXT", default="", help="Only keys that begin with this text.")
text_option = click.option(
    "--text", "is_text", is_flag=True, help="The argument is text, not JSON: it is stored as a JSON string."
)
ttl_option = click.option(
    "--ttl",
    type=time_to_live,
    metavar="DURATION",
    help="Time to live: seconds, or 30s, 5m, 2h, 7d; `never`; `keep`: that of the value before.",
)
revision_option = click.option(
    "--if-revision",
    metavar="REVISION",
    help="Change the key only if it has this revision; `none`: only if it has no value. Else the exit code is 1.",
)
idempotency_option = click.option(
    "--idempotency-key", metavar="TEXT", help="A second call with the same text and arguments changes nothing."
)
create_option = click.option(
    "--create", "creates", is_flag=True, help="Create the namespace, and the embedded Redis, if they do not exist."
)
change_options = stack(revision_option, idempotency_option)


def change_arguments(if_revision: str | None, idempotency_key: str | None) -> dict[str, Any]:
    """Return the arguments of a changing call for what was given on the command line."""
    given: dict[str, Any] = {} if idempotency_key is None else {"idempotency_key": idempotency_key}
    if if_revision is not None:
        given["if_revision"] = None if if_revision == "none" else if_revision
    return given


def ttl_argument(ttl: Any) -> dict[str, Any]:
    """Return the `ttl` of a call, if it was given. None, for `never`, is also what click passes for an option that was not."""
    source = click.get_current_context().get_parameter_source("ttl")
    return {"ttl": ttl} if source is click.core.ParameterSource.COMMANDLINE else {}


def scope_of(text: str) -> str:
    """Return a scope as calls take it: also that of a group of a stream, by the name that `watch` shows."""
    from motia_redis._store.stream_groups import scope_name  # noqa: PLC0415 - slow

    return scope_name(text)


def read_text(argument: str) -> str:
    """Return an argument, or standard input for `-`. Raises CommandError."""
    if argument != "-":
        return argument
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise CommandError(f"standard input is not UTF-8: byte {error.start} is {error.object[error.start]:#04x}") from None


def json_argument(argument: str, name: str, *, is_text: bool) -> str:
    """Return the JSON text of an argument or of standard input. Raises CommandError if it is not JSON."""
    text = read_text(argument)
    if is_text:
        return json.dumps(text)
    parse_argument(text, name)
    return text


def parse_argument(text: str, name: str, *, exactly: bool = False) -> Any:
    """Return the value of a JSON text. Raises CommandError if it is not JSON; `exactly`: or if a float would lose digits."""
    from motia_redis._store.json_texts import exact, parse  # noqa: PLC0415 - slow

    try:
        return parse(text, exact if exactly else None)
    except ValueError as error:
        hint = "" if exactly else "; for text give --text, or quote it twice: '\"text\"'"
        raise CommandError(f"{name} is not JSON: {error}{hint}") from None
