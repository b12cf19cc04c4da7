"""The machine and the versions a measurement was taken with."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def describe(packages: tuple[str, ...] = ("motia-redis", "redis", "hiredis", "orjson")) -> dict[str, str]:
    """Return machine and versions, by name, for printing and for the result file."""
    facts = {
        "cpu": _first_value("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": _memory(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    for package in packages:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    return facts


def sentence(facts: dict[str, str]) -> str:
    """Return the facts as one line of prose."""
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def conditions(result: dict[str, Any], others: dict[str, dict[str, str]] | None = None) -> str:
    """Say where, with what and how it was measured, and who was left out, a line each.

    The result's `machine` and `settings` are facts by name, its `left out`, if it has one, reasons by name; `others` are more
    such lines, by their first word.
    """
    groups = {"Machine": result["machine"], **(others or {}), "Settings": result["settings"]}
    lines = [f"{name}: {sentence(facts) or 'none'}." for name, facts in groups.items()]
    lines += [f"Left out: {name}: {why}." for name, why in result.get("left out", {}).items()]
    return "  \n".join(lines) + "\n"


def _memory() -> str:
    kibibytes = _first_value("/proc/meminfo", "MemTotal")
    return f"{int(kibibytes.split()[0]) / 1024 / 1024:.1f} GiB" if kibibytes else "unknown"


def _first_value(path: str, field: str) -> str | None:
    """Return the value of the first `field: value` line of a file under /proc, or None."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return None
