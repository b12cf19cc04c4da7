"""The root of the benchmarks' errors."""

from __future__ import annotations


class BenchmarkFailed(Exception):
    """What ends a benchmark; says why in one line."""
