"""Define the options that all commands share, and print errors as one line."""

from __future__ import annotations

import contextlib
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from motia_redis.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from motia_redis._store.manager import StateManager

EXIT_ERROR = 2


class CommandError(Exception):
    """A failure that the command prints as one line."""


def stack(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return one decorator for several options. `--help` shows the options in the order given."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


connection_options = stack(
    click.option(
        "--redis",
        "redis_url",
        metavar="URL",
        envvar="MOTIA_REDIS_URL",
        show_envvar=True,
        help="redis://, rediss://, unix://, redis+sentinel://, redis+cluster:// or embedded://DIR; default: embedded://.motia",
    ),
    click.option(
        "--namespace",
        metavar="NAME",
        envvar="MOTIA_REDIS_NAMESPACE",
        show_envvar=True,
        default="motia",
        show_default=True,
        help="Prefix of all keys. Applications with the same namespace share state.",
    ),
)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Print an error of the block as one line and end the process with exit code 2. After an interrupt the exit code is 130."""
    try:
        yield
    except (StateError, CommandError) as exc:
        click.echo(f"motia-redis: error: {' '.join(str(exc).split())}", err=True)
        sys.exit(EXIT_ERROR)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def state_manager(redis_url: str | None, namespace: str) -> StateManager:
    """Return the manager for the options. Raises CommandError for an invalid URL or namespace."""
    from motia_redis._store.manager import StateManager  # noqa: PLC0415 - slow to import: `--help` must answer at once

    try:
        return StateManager(redis_url, namespace=namespace)
    except ValueError as exc:
        raise CommandError(f"--redis: {exc}") from exc
