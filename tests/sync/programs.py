"""Programs in processes of their own, with warnings as errors."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

from tests.support.snippets import ROOT

_PRELUDE = """
import logging, os, signal, sys, threading, time
logging.disable(logging.WARNING)
from motia_redis.sync import StateManager
state = StateManager(sys.argv[1], namespace=sys.argv[2])
"""


def run(code: str, url: str, namespace: str, *, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    """Run a program in which `state` is a sync manager, and return what it printed. It must end in time."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", _PRELUDE + textwrap.dedent(code), url, namespace],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
