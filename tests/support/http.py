"""Ask HTTP servers of processes under test."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.applications import Command


def ask(url: str, *, timeout: float = 5) -> tuple[int, str]:
    """Return status and body."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def port_of(process: Command, what: str) -> int:
    """Return the port that the log names for `what`, such as probes."""
    found = re.search(rf"{what} at http://127\.0\.0\.1:(\d+)", process.output)
    assert found, process.output
    return int(found[1])
