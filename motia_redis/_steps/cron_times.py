"""Cron expressions: check them, and compute their times in Unix milliseconds, by cronsim and the IANA time zones.

It is imported when the first cron trigger is made.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

#: What each name stands for.
NAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_SECOND = ("second", "0 to 59")
_FIELDS = (
    ("minute", "0 to 59"),
    ("hour", "0 to 23"),
    ("day of month", "1 to 31, L or LW"),
    ("month", "1 to 12 or JAN to DEC"),
    ("day of week", "0 (Sunday) to 7 or SUN to SAT, with #2 for the second or L for the last of a month"),
)
_MOST = 256  # characters of an expression: it is a part of names in Redis
_SHORTEST = 1000  # milliseconds between two times of an expression


def canonical(expression: str) -> str:
    """Return an expression in the form by which it is known: names as fields, capitals, one space between the fields.

    Six fields begin with the seconds, which are left out if they are 0. Seven end with the year, as Motia writes them, which is
    left out if it is every year.
    """
    fields = (NAMES.get(expression.strip().lower()) or expression.upper()).split()
    if len(fields) == len(_FIELDS) + 2 and fields[-1] in ("*", "?"):
        del fields[-1]
    if len(fields) == len(_FIELDS) + 1 and fields[0] in ("0", "00"):
        del fields[0]
    return " ".join(fields)


def expression_problem(expression: object) -> str | None:
    """Return what is wrong with an expression, worded as a sentence, or None."""
    if not isinstance(expression, str):
        return f"the expression of a cron trigger must be text such as '*/5 * * * *', not {expression!r:.80}"
    if len(expression) > _MOST:
        return f"the expression of a cron trigger must have at most {_MOST} characters, not {len(expression)}"
    if expression.strip().startswith("@") and expression.strip().lower() not in NAMES:
        return f"a cron trigger knows the names {', '.join(NAMES)}, not {expression!r}"
    return _count_problem(expression) or _field_problem(expression)


def _count_problem(expression: str) -> str | None:
    fields = canonical(expression).split()
    if len(fields) not in (len(_FIELDS), len(_FIELDS) + 1):
        return (
            "a cron expression has five fields, minute, hour, day of month, month and day of week, or six, with the second before"
            f" them, or seven, with * as the year behind them, not {expression!r}"
        )
    if len(expression.split()) > len(_FIELDS) and any(character.isdigit() for character in fields[-1]):
        return (
            f"the weekdays of the cron expression {expression!r} must be SUN to SAT: with seconds, Motia counts them from 1 for "
            "Sunday, and without from 0"
        )
    return None


def _field_problem(expression: str) -> str | None:
    fields = canonical(expression).split()
    known = _FIELDS if len(fields) == len(_FIELDS) else (_SECOND, *_FIELDS)
    for place, (field, (name, range_)) in enumerate(zip(fields, known, strict=True)):
        if not _is_accepted(" ".join(field if other == place else "*" for other in range(len(known)))):
            return (
                f"the {name} of a cron trigger must be {range_}, as *, a value, a range, a list or with a step,"
                f" not {field!r:.80} in {expression!r}"
            )
    if not _is_accepted(" ".join(fields)) or Times(expression, UTC).after(int(time.time() * 1000)) is None:
        return f"the cron expression {expression!r} names a day that never comes"
    return None


def zone_problem(timezone: object) -> str | None:
    """Return what is wrong with the name of a time zone, worded as a sentence, or None."""
    if not isinstance(timezone, str):
        return f"the timezone of a cron trigger must be a name such as 'Europe/Berlin', not {timezone!r:.80}"
    try:
        zone_of(timezone)
    except (KeyError, ValueError, OSError):
        return (
            f"the timezone of a cron trigger must be the name of an IANA time zone such as 'Europe/Berlin', not {timezone!r:.80};"
            " if this machine has no time zones, install the package tzdata"
        )
    return None


def zone_of(timezone: str) -> tzinfo:
    """Return a time zone. UTC needs no database of time zones."""
    return UTC if timezone == "UTC" else ZoneInfo(timezone)


class Times:
    """The times of an expression in a time zone, in Unix milliseconds.

    At the changes of summer time it keeps to Debian's cron. A time with an hour and a minute that the clock skips comes when the
    clock has moved forward; one that the clock shows twice comes the first time. An expression whose hour or minute begins with a
    star goes by the time that passes.
    """

    def __init__(self, expression: str, zone: tzinfo) -> None:
        self._expression = canonical(expression)
        self._zone = zone

    def after(self, moment: int) -> int | None:
        """Return the first time after a moment; None = there is none within 50 years."""
        for found in CronSim(self._expression, datetime.fromtimestamp(moment // 1000, self._zone)):
            milliseconds = int(found.timestamp()) * 1000
            if milliseconds > moment:  # one that the clock shows twice may lie before a moment that it shows twice
                return milliseconds
        return None

    def last(self, first: int, until: int) -> int:
        """Return the last time up to `until`, where `first` is one of them. Cost: about 35 searches for a year."""
        low, high = first - 1, until  # a time follows `low` up to `until`, and none follows `high`
        while high - low > _SHORTEST:
            middle = (low + high) // 2
            following = self.after(middle)
            if following is not None and following <= until:
                low = middle
            else:
                high = middle
        found = self.after(low)
        assert found is not None  # noqa: S101  # for the type checker
        return found


def _is_accepted(expression: str) -> bool:
    try:
        CronSim(expression, datetime.fromtimestamp(0, UTC))
    except (CronSimError, AssertionError, ValueError):  # the latter two for some fields that mix its forms
        return False
    return True
