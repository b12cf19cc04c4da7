"""Notice steps that trigger themselves."""

from __future__ import annotations

import logging

_log = logging.getLogger("motia_redis.worker")

_LONG = 1000  # runs of one step within one trace
_MOST = 10_000  # traces that are counted at once


class Chains:
    """Count the runs of each step within one trace: a step that triggers itself runs on and on."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, str], int] = {}

    def note(self, step: str, trace_id: str) -> None:
        """Count a run, and log once that there were very many."""
        chain = step, trace_id
        runs = self._runs[chain] = self._runs.get(chain, 0) + 1
        if runs == _LONG:
            _log.warning("step %s ran %d times within one trace: does it trigger itself, directly or by other steps?", step, runs)
        elif runs == 1 and len(self._runs) > _MOST:
            del self._runs[next(iter(self._runs))]
