"""Define the options that all commands share, and print errors as one line."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from motia_redis._steps.faults import escaped
from motia_redis.errors import KeyMissing, RevisionConflict, StateError, TestFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from motia_redis._store.manager import StateManager

EXIT_ERROR = 2
EXIT_NEGATIVE = 1  # nothing went wrong, but what is asked for is not there, or somebody else has changed it

_NEGATIVE = (RevisionConflict, KeyMissing, TestFailed)


class CommandError(Exception):
    """A failure that the command prints as one line, before it ends with the exit code."""

    def __init__(self, message: str, exit_code: int = EXIT_ERROR) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def exit_code_of(error: Exception) -> int:
    """Return the exit code of a command that fails with this error."""
    if isinstance(error, CommandError):
        return error.exit_code
    return EXIT_NEGATIVE if isinstance(error, _NEGATIVE) else EXIT_ERROR


def stack(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return one decorator for several options. `--help` shows the options in the order given."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _reject_empty_variable(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Reject an empty variable, which click takes for one that is not set: the default would silently be other data."""
    variable = option.envvar if isinstance(option.envvar, str) else ""
    if value == "":
        raise click.BadParameter("is empty; leave the option out to use the default", ctx, option)
    source = ctx.get_parameter_source(option.name or "")
    if source is click.core.ParameterSource.DEFAULT and os.environ.get(variable) == "":
        raise click.BadParameter(f"the variable {variable} is empty; set it, or unset it to use the default", ctx, option)
    return value


def parse_address(ctx: click.Context, option: click.Parameter, value: str | None) -> tuple[str, int] | None:
    """Return host and port of `PORT` or `HOST:PORT`."""
    if value is None:
        return None
    host, _, port = value.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise click.BadParameter(f"{value!r} is not PORT or HOST:PORT, such as 9464 or 0.0.0.0:9464", ctx, option)
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


connection_options = stack(
    click.option(
        "--redis",
        "redis_url",
        metavar="URL",
        envvar="MOTIA_REDIS_URL",
        show_envvar=True,
        callback=_reject_empty_variable,
        help="redis://, rediss://, unix://, redis+sentinel://, redis+cluster:// or embedded://DIR; default: embedded://.motia",
    ),
    click.option(
        "--namespace",
        metavar="NAME",
        envvar="MOTIA_REDIS_NAMESPACE",
        show_envvar=True,
        default="motia",
        show_default=True,
        callback=_reject_empty_variable,
        help="Prefix of all keys. Applications with the same namespace share state.",
    ),
)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Print an error of the block as one line and end the process with its exit code, mostly 2; 130 after an interrupt."""
    try:
        yield
    except (StateError, CommandError) as exc:
        # Names of users, keys and steps may stand in it, and send commands to the terminal.
        click.echo(f"motia-redis: error: {escaped(' '.join(str(exc).split()))}", err=True)
        sys.exit(exit_code_of(exc))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def confirm(question: str, *, verb: str, done: str) -> None:
    """Ask a question. End the process with exit code 2 if the answer is not yes; the message says that nothing was `done`."""
    with one_line_errors():
        try:
            agreed = click.confirm(question, err=True)
        except click.Abort:  # end of input, or an interrupt
            click.echo(err=True)
            agreed = False
        if not agreed:
            raise CommandError(
                f"nothing was {done}: the question was not answered with yes; use --yes to {verb} without a question"
            )


def state_manager(redis_url: str | None, namespace: str) -> StateManager:
    """Return the manager for the options. Raises CommandError for an invalid URL or namespace."""
    from motia_redis._store.manager import StateManager  # noqa: PLC0415 - slow to import: `--help` must answer at once

    try:
        return StateManager(redis_url, namespace=namespace)
    except ValueError as exc:
        raise CommandError(f"--redis: {exc}") from exc
