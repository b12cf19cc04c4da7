"""Listen on ports, and serve them by uvicorn."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

from motia_redis._cli.options import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp
    from uvicorn import Server


def listen(host: str, port: int, remedy: str) -> socket.socket:
    """Return a listening socket. Raises CommandError if the address is not available; its text says to choose `remedy`."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server((str(address[0]), port), family=family, backlog=2048)
    except OSError as exc:
        # The text of `exc` repeats the address, so take the reason from its code.
        reason = os.strerror(exc.errno) if exc.errno is not None and exc.errno > 0 else exc.strerror or str(exc)
        raise CommandError(f"cannot listen on {host}:{port}: {reason}; choose {remedy}") from exc


def url_of(listener: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def quiet_server(app: ASGIApp, *, root_path: str = "") -> Server:
    """Return a server that handles neither signals nor logging."""
    import uvicorn  # noqa: PLC0415 - only what serves needs it

    class QuietServer(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    return QuietServer(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none", root_path=root_path))
