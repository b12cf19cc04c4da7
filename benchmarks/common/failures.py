"""The base class of the benchmarks' errors."""

from __future__ import annotations


class BenchmarkFailed(Exception):
    """A benchmark cannot continue. The message is one line."""
