"""Tell this machine's addresses from others, and where the console is."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from starlette.requests import Request


def is_loopback(host: str) -> bool:
    """Return whether an address or name is one of this machine only."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def root_of(request: Request) -> str:
    """Return the path below which the console is, as it stands in a link: without a slash at its end."""
    return quote(request.scope.get("root_path", "").rstrip("/"))
