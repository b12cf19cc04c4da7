"""Define the `motia-redis` command and its commands `run`, `serve` and `worker`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from motia_redis._cli.check import check
from motia_redis._cli.console import console
from motia_redis._cli.copying import copy
from motia_redis._cli.dead import dead
from motia_redis._cli.editing import edit
from motia_redis._cli.listing import list_, scopes
from motia_redis._cli.moving import export, import_
from motia_redis._cli.options import connection_options, parse_address, stack
from motia_redis._cli.reloading import reload_on_change
from motia_redis._cli.scheduled import scheduled
from motia_redis._cli.sending import enqueue
from motia_redis._cli.serving import Settings, start
from motia_redis._cli.settings import settings
from motia_redis._cli.status import doctor, status
from motia_redis._cli.steps import steps
from motia_redis._cli.values import delete, get, set_, update
from motia_redis._cli.watching import watch
from motia_redis._version import __version__

_common = stack(
    click.argument("app", nargs=-1, required=True),
    connection_options,
    click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
        default="info",
        show_default=True,
        help="Lowest level of the records to write.",
    ),
    click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="Format of the log on standard error.",
    ),
    click.option(
        "--wait",
        type=click.FloatRange(min=0),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait at the start for a Redis that cannot be reached.",
    ),
    click.option(
        "--grace",
        type=click.FloatRange(min=1),
        default=25.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait at the end for running handlers and requests. A second signal ends the process at once.",
    ),
    click.option(
        "--health",
        metavar="[HOST:]PORT",
        callback=parse_address,
        help="Also answer /livez and /readyz at this port. Default host: 127.0.0.1. 0: a free port.",
    ),
    click.option(
        "--health-file",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="PATH",
        help="Touch this file once a second while the event loop runs.",
    ),
    click.option(
        "--metrics",
        metavar="[HOST:]PORT",
        callback=parse_address,
        help="Serve /metrics for Prometheus at this port (extra metrics). Default host: 127.0.0.1.",
    ),
    click.option(
        "--telemetry",
        is_flag=True,
        envvar="MOTIA_REDIS_TELEMETRY",
        show_envvar=True,
        help="Make spans and metrics by OpenTelemetry (extra telemetry).",
    ),
    click.option(
        "--telemetry-calls",
        is_flag=True,
        envvar="MOTIA_REDIS_TELEMETRY_CALLS",
        show_envvar=True,
        help="Also make a span of each single call of state.",
    ),
    click.option("--reload", is_flag=True, help="Start again when a Python file in the folders of APP changes (extra: reload)."),
)
_http = stack(
    click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on."),
    click.option(
        "--port", type=click.IntRange(0, 65535), default=3000, show_default=True, help="Port to listen on. 0 selects a free port."
    ),
    click.option(
        "--max-body",
        type=click.IntRange(min=1),
        default=1_048_576,
        show_default=True,
        metavar="BYTES",
        help="Largest request body that is accepted.",
    ),
    click.option("--access-log/--no-access-log", default=True, show_default=True, help="Log each HTTP request."),
    click.option(
        "--cors-origin",
        "cors_origins",
        multiple=True,
        metavar="ORIGIN",
        help="Let pages of this origin, or of all (*), call the routes in a browser. May be given more than once.",
    ),
)
_consumption = stack(
    click.option(
        "--concurrency",
        type=click.IntRange(min=1),
        default=64,
        show_default=True,
        metavar="N",
        help="Largest number of handlers that run at the same time.",
    ),
    click.option(
        "--lease",
        type=click.FloatRange(min=0.3),
        default=3.0,
        show_default=True,
        metavar="SECONDS",
        help="Time after which other workers take the lanes of a dead worker.",
    ),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="motia-redis", message="%(prog)s %(version)s", help="Show the version.")
def main() -> None:
    """Run steps on shared state in Redis, and read and change that state.

    APP is a Python file, a folder of *_step.py and *.step.py files, or a module. More than one may be given.

    \b
    Example:
      motia-redis check examples/users.py
      motia-redis run examples/users.py --redis redis://localhost:6379/0
      motia-redis status --redis redis://localhost:6379/0
      motia-redis get users ann

    \b
    Completion in the shell (bash; also zsh_source and fish_source):
      eval "$(_MOTIA_REDIS_COMPLETE=bash_source motia-redis)"
    """  # noqa: D301 - \b is click's mark for a paragraph that must not be wrapped


_ON_VALUES = (get, set_, update, delete, list_, scopes, watch, edit, enqueue)
for _command in (*_ON_VALUES, check, status, doctor, settings, dead, steps, scheduled, export, import_, copy, console):
    main.add_command(_command)


def _start(settings: Settings, *, reload: bool) -> None:
    if reload:
        reload_on_change(settings.app, settings.grace)
    else:
        start(settings)


@main.command()
@_common
@_http
@_consumption
def run(*, reload: bool, **options: Any) -> None:
    """Serve HTTP and run a worker, in one process.

    \b
    Example:
      motia-redis run examples/users.py --port 3000
      motia-redis run examples/users.py --reload
    """  # noqa: D301
    _start(Settings(serves=True, works=True, **options), reload=reload)


@main.command()
@_common
@_http
def serve(*, reload: bool, **options: Any) -> None:
    """Serve HTTP only. State, queue, cron and stream triggers fire in `worker` processes.

    \b
    Example:
      motia-redis serve examples/users.py --redis redis://localhost:6379/0 --host 0.0.0.0
    """  # noqa: D301
    _start(Settings(serves=True, works=False, **options), reload=reload)


@main.command()
@_common
@_consumption
def worker(*, reload: bool, **options: Any) -> None:
    """Run a worker: fire state, queue, cron and stream triggers, without HTTP. Any number of workers may run.

    \b
    Example:
      motia-redis worker examples/users.py --redis redis://localhost:6379/0 --concurrency 16
      opentelemetry-instrument motia-redis worker examples/users.py --telemetry
    """  # noqa: D301
    _start(Settings(serves=False, works=True, **options), reload=reload)
