"""The `motia-redis` command: its options, `run`, `serve` and `worker`, and the administrative commands."""

from __future__ import annotations

from typing import Any

import click

from motia_redis._cli.dead import dead
from motia_redis._cli.options import connection_options, stack
from motia_redis._cli.serving import Settings, start
from motia_redis._cli.status import doctor, status
from motia_redis._cli.steps import steps
from motia_redis._version import __version__

_common = stack(
    click.argument("app", nargs=-1, required=True),
    connection_options,
    click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
        default="info",
        show_default=True,
    ),
    click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True),
)
_http = stack(
    click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on."),
    click.option("--port", type=click.IntRange(0, 65535), default=3000, show_default=True, help="Port; 0 takes a free one."),
    click.option(
        "--max-body",
        type=click.IntRange(min=1),
        default=1_048_576,
        show_default=True,
        metavar="BYTES",
        help="Largest request body.",
    ),
)
_consumption = stack(
    click.option(
        "--concurrency",
        type=click.IntRange(min=1),
        default=64,
        show_default=True,
        metavar="N",
        help="Handlers that run at once.",
    ),
    click.option(
        "--lease",
        type=click.FloatRange(min=0.3),
        default=3.0,
        show_default=True,
        metavar="SECONDS",
        help="How long the work of a process that died stays untouched.",
    ),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="motia-redis", message="%(prog)s %(version)s", help="Show the version.")
def main() -> None:
    """Run applications of steps on shared state in Redis.

    APP is a Python file, a folder of *_step.py files or a module; several may be given.

    \b
    Example:
      motia-redis run examples/users.py --redis redis://localhost:6379/0
    """  # noqa: D301 - \b is click's mark for a paragraph that must not be wrapped


for _command in (status, doctor, dead, steps):
    main.add_command(_command)


@main.command()
@_common
@_http
@_consumption
def run(**options: Any) -> None:
    """Serve HTTP and fire triggers, in one process.

    \b
    Example:
      motia-redis run examples/users.py --port 3000
    """  # noqa: D301
    start(Settings(serves=True, works=True, **options))


@main.command()
@_common
@_http
def serve(**options: Any) -> None:
    """Serve HTTP only; triggers fire in `worker` processes.

    \b
    Example:
      motia-redis serve examples/users.py --redis redis://localhost:6379/0 --host 0.0.0.0
    """  # noqa: D301
    start(Settings(serves=True, works=False, **options))


@main.command()
@_common
@_consumption
def worker(**options: Any) -> None:
    """Fire state and queue triggers only; start as many as needed.

    \b
    Example:
      motia-redis worker examples/users.py --redis redis://localhost:6379/0 --concurrency 16
    """  # noqa: D301
    start(Settings(serves=False, works=True, **options))
