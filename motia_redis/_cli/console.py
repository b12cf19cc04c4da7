"""Define the command `console`."""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from motia_redis._cli.namespace import run_on_namespace
from motia_redis._cli.options import CommandError, connection_options, one_line_errors

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from motia_redis._store.manager import StateManager

_GRACE = 2.0  # seconds that requests have to end


@click.command()
@connection_options
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on. Another one needs --token-file.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=3100, show_default=True, help="Port to listen on. 0 selects a free port."
)
@click.option("--allow-changes", is_flag=True, help="Let people change values, and retry and drop dead letters.")
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="PATH",
    help="A file with the token that people enter to come in, at least 16 characters.",
)
@click.option(
    "--redact",
    multiple=True,
    metavar="PATTERN",
    help="Mask what matches SCOPE/KEY/MEMBER/..., such as '*/*card*' or 'users/*/email'. May be given more than once, "
    "and adds to the patterns for members that look like secrets.",
)
@click.option("--no-default-redact", is_flag=True, help="Mask only what --redact names.")
@click.option("--root-path", default="", metavar="PATH", help="The path that a proxy takes away before the console.")
def console(
    *,
    redis_url: str | None,
    namespace: str,
    host: str,
    port: int,
    allow_changes: bool,
    token_file: Path | None,
    redact: tuple[str, ...],
    no_default_redact: bool,
    root_path: str,
) -> None:
    """Show a namespace in a browser: steps, workers, state, changes as they happen, and dead letters.

    It only reads unless --allow-changes is given. Each change writes a line to standard error. Without a token it answers only
    this machine.

    \b
    Example:
      motia-redis console
      motia-redis console --allow-changes --redact 'users/*/email'
      motia-redis console --host 0.0.0.0 --token-file /run/secrets/console_token
    """  # noqa: D301
    with one_line_errors():
        token = _read_token(token_file)
        if token is None and not _is_loopback(host):
            raise CommandError(
                f"--host {host} lets other machines in, so the console needs a token: give --token-file, or listen on 127.0.0.1"
            )
        if root_path and (not root_path.startswith("/") or root_path.endswith("/")):
            raise CommandError(f"--root-path must begin with / and not end with it, not {root_path!r}")

    async def work(state: StateManager) -> None:
        from motia_redis._console.app import DEFAULT_REDACTED, create_console_app  # noqa: PLC0415 - slow

        patterns = (*(() if no_default_redact else DEFAULT_REDACTED), *redact)
        app = create_console_app(state, allow_changes=allow_changes, token=token, redact=patterns)
        await _serve(app, host, port, root_path)

    run_on_namespace(redis_url, namespace, work)


def _read_token(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"--token-file {path} cannot be read: {error}") from None


def _is_loopback(host: str) -> bool:
    from motia_redis._console.addresses import is_loopback  # noqa: PLC0415 - slow

    return is_loopback(host)


async def _serve(app: ASGIApp, host: str, port: int, root_path: str) -> None:
    """Serve until a signal."""
    from sse_starlette.sse import AppStatus  # noqa: PLC0415 - slow

    from motia_redis._cli.listening import listen, quiet_server, url_of  # noqa: PLC0415 - slow
    from motia_redis._steps.logs import configure_logging  # noqa: PLC0415

    configure_logging("info", "text")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    with listen(host, port, "another --host or --port") as listener:
        server = quiet_server(app, root_path=root_path)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        click.echo(f"motia-redis: console at {url_of(listener)}{root_path}/")
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        AppStatus.should_exit = True  # ends what browsers follow; sse-starlette does not see this server stop
        server.should_exit = True
        await asyncio.wait([serving], timeout=_GRACE)
        server.force_exit = True
        await serving
