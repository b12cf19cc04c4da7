"""What the tests of an application change in a worker: the clock of its pauses, and what it deletes at the end of an entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Say where a worker gets the time of its pauses from, and what it keeps. The default is what workers do in production."""

    #: The time for pauses between attempts, Unix milliseconds. With one, the worker lets nothing happen that falls due, and
    #: schedules no cron trigger. None = the server's time.
    now: Callable[[], int] | None = None
    jitter: float = 0.2  #: by what part a pause may be shorter or longer
    keeps_effects: bool = False  #: what `effects_once` has recorded stays, so that a handled entry can be handled again


PRODUCTION = Hooks()
