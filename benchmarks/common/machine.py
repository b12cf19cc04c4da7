"""Description of the machine and of the installed versions."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def describe(packages: tuple[str, ...] = ("motia-redis", "redis", "hiredis", "orjson")) -> dict[str, str]:
    """Return properties of the machine and versions of packages, by name."""
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
    """Return the properties as one line of text."""
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def conditions(result: dict[str, Any], others: dict[str, dict[str, str]] | None = None) -> str:
    """Return lines with the machine, the settings and the contenders that were left out.

    The result has `machine` and `settings`, properties by name, and may have `left out`, reasons by name. `others` are further
    lines: properties by name, by the label of the line.
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
