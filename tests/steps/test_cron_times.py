"""Cron expressions: which are accepted, what an error says, and their times, also where summer time begins and ends."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from motia_redis import cron
from motia_redis._steps.cron_times import NAMES, Times, canonical, expression_problem, zone_of, zone_problem

BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"


def milliseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 1000


def at(text: str) -> int:
    """Return a time in UTC in milliseconds."""
    return milliseconds(datetime.fromisoformat(text).replace(tzinfo=UTC))


def times(expression: str, zone: str, start: str, end: str) -> list[str]:
    """Return the times after `start`, up to `end`, all in UTC."""
    found, moment, source = [], at(start), Times(expression, zone_of(zone))
    while (following := source.after(moment)) is not None and following <= at(end):
        found.append(datetime.fromtimestamp(following / 1000, UTC).strftime("%d %H:%M"))
        moment = following
    return found


# -- expressions --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "expression",
    [
        "* * * * *", "*/5 * * * *", "0 9-17/2 * * mon-fri", "0,30 4 1,15 jan,jul *", "0 0 L * *", "0 0 LW * *", "0 0 * * FRI#2",
        "0 0 * * 5L", "59 23 31 12 7", "0 0 29 2 *", "  0   0\t* * * ", "@daily", "@Hourly", " @weekly ", "0 0 13 * FRI",
    ],
)  # fmt: skip
def test_expression_of_debians_cron_is_accepted(expression: str) -> None:
    assert expression_problem(expression) is None


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("60 * * * *", "the minute of a cron trigger must be 0 to 59.* not '60' in '60 "),
        ("* 24 * * *", "the hour .* 0 to 23.* not '24'"),
        ("* * 0 * *", "the day of month .* 1 to 31"),
        ("* * * 13 *", "the month .* 1 to 12 or JAN to DEC.* not '13'"),
        ("* * * * 8", "the day of week .* 0 \\(Sunday\\) to 7"),
        ("5-1 * * * *", "the minute .* not '5-1'"),
        ("*/0 * * * *", "the minute .* not '\\*/0'"),
        ("1,,2 * * * *", "the minute "),
        ("* * * * MON#6", "the day of week "),
        ("* * * * MON#1/2", "the day of week "),
        ("* * ² * *", "the day of month "),
        (f"{'9' * 200} * * * *", "the minute "),
        ("0 0 31 2 *", "names a day that never comes"),
        ("0 0 */20 * 1L", "names a day that never comes"),
        ("* * * *", "has five fields"),
        ("", "has five fields"),
        ("@reboot", "knows the names @hourly, @daily.* not '@reboot'"),
        ("@ daily", "knows the names"),
        ("0 0 9 * * 2 *", "must be SUN to SAT: with seconds, Motia counts them from 1 for Sunday"),
        ("0 9 * * * 1-5", "must be SUN to SAT"),
        ("60 * * * * *", "the second of a cron trigger must be 0 to 59"),
        ("0 0 9 * * * 2027", "a cron expression has five fields"),
        ("* * * * * * * *", "a cron expression has five fields"),
        ("* " * 200, "at most 256 characters, not 400"),
        (5, "must be text such as '\\*/5 \\* \\* \\* \\*', not 5"),
        (None, "must be text"),
    ],
)
def test_expression_that_does_not_fit_is_rejected_with_its_field(expression: object, says: str) -> None:
    problem = expression_problem(expression)
    assert problem is not None
    assert re.search(says, problem), problem


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "", "Europe", "../UTC", "/etc/passwd", "a\0b", 5, None])
def test_unknown_time_zone_is_rejected_with_its_name(zone: object) -> None:
    problem = zone_problem(zone)
    assert problem is not None
    assert f"such as 'Europe/Berlin', not {zone!r}" in problem


def test_utc_needs_no_time_zones_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("motia_redis._steps.cron_times.ZoneInfo", None)
    assert zone_problem("UTC") is None
    assert Times("@daily", zone_of("UTC")).after(at("2026-05-01 00:00")) == at("2026-05-02 00:00")


def test_one_schedule_has_one_name_however_it_is_written() -> None:
    assert canonical(" 0  0 *\t* mon ") == "0 0 * * MON"
    assert canonical("@Daily") == canonical("@midnight") == "0 0 * * *"
    assert cron("@daily").schedule == cron("0 0 * * *").schedule == "UTC 0 0 * * *"
    assert cron("@daily", timezone=BERLIN).schedule == "Europe/Berlin 0 0 * * *"
    assert {canonical(fields) for fields in NAMES.values()} == set(NAMES.values())


def test_seconds_come_first_and_a_year_last_as_motia_writes_them() -> None:
    assert canonical("0 2 * * * *") == canonical("00 2 * * * * *") == canonical("2 * * * *") == "2 * * * *"
    assert canonical("*/5 * * * * *") == canonical("*/5 * * * * * *") == "*/5 * * * * *"
    assert expression_problem("0 0 9 * * mon-fri *") is None
    times = Times("*/5 * * * * *", zone_of("UTC"))
    start = at("2026-05-01 00:00")
    assert [times.after(start), times.after(start + 5000)] == [start + 5000, start + 10_000]
    assert times.last(start + 5000, start + 3_600_000 + 4999) == start + 3_600_000


# -- summer time ---------------------------------------------------------------------------------------------------------------

SPRING = {BERLIN: ("2026-03-28 12:00", "2026-03-30 12:00"), NEW_YORK: ("2026-03-07 12:00", "2026-03-09 12:00")}
AUTUMN = {BERLIN: ("2026-10-24 12:00", "2026-10-26 12:00"), NEW_YORK: ("2026-10-31 12:00", "2026-11-02 12:00")}


@pytest.mark.parametrize(
    ("expression", "zone", "expected"),
    [
        ("30 2 * * *", BERLIN, ["29 01:00", "30 00:30"]),  # at 03:00, when the clock has moved on
        ("0,30 2 * * *", BERLIN, ["29 01:00", "30 00:00", "30 00:30"]),  # two skipped times are one
        ("30 3 * * *", BERLIN, ["29 01:30", "30 01:30"]),
        ("30 1 * * *", BERLIN, ["29 00:30", "29 23:30"]),
        ("30 2 * * *", NEW_YORK, ["08 07:00", "09 06:30"]),
        ("0,30 2 * * *", NEW_YORK, ["08 07:00", "09 06:00", "09 06:30"]),
        ("30 1 * * *", NEW_YORK, ["08 06:30", "09 05:30"]),
        ("*/30 2 * * *", BERLIN, ["30 00:00", "30 00:30"]),  # by the time that passes: not on that day
    ],
)
def test_time_that_the_clock_skips_comes_once_right_afterwards(expression: str, zone: str, expected: list[str]) -> None:
    assert times(expression, zone, *SPRING[zone]) == expected


@pytest.mark.parametrize(
    ("expression", "zone", "expected"),
    [
        ("30 2 * * *", BERLIN, ["25 00:30", "26 01:30"]),  # the first 02:30, in summer time
        ("0,30 2 * * *", BERLIN, ["25 00:00", "25 00:30", "26 01:00", "26 01:30"]),
        ("0 3 * * *", BERLIN, ["25 02:00", "26 02:00"]),
        ("*/30 2 * * *", BERLIN, ["25 00:00", "25 00:30", "25 01:00", "25 01:30", "26 01:00", "26 01:30"]),  # both hours
        ("30 1 * * *", NEW_YORK, ["01 05:30", "02 06:30"]),
        ("0 2 * * *", NEW_YORK, ["01 07:00", "02 07:00"]),
    ],
)
def test_time_that_the_clock_shows_twice_comes_the_first_time(expression: str, zone: str, expected: list[str]) -> None:
    assert times(expression, zone, *AUTUMN[zone]) == expected


@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK])
@pytest.mark.parametrize("season", [SPRING, AUTUMN])
@pytest.mark.parametrize(("expression", "minutes"), [("*/15 * * * *", 15), ("7 * * * *", 60), ("* * * * *", 1)])
def test_expression_for_every_hour_goes_by_the_time_that_passes(
    expression: str, minutes: int, season: dict[str, tuple[str, str]], zone: str
) -> None:
    start, end = season[zone]
    source, moment, found = Times(expression, ZoneInfo(zone)), at(start), []
    while (moment := source.after(moment) or 0) <= at(end):
        found.append(moment)
    assert {later - earlier for earlier, later in pairwise(found)} == {minutes * 60_000}
    assert len(found) == 48 * 60 // minutes


@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK, "Australia/Lord_Howe", "Antarctica/Troll", "America/Havana"])
@pytest.mark.parametrize("expression", ["30 2 * * *", "0,30 0-3 * * *", "0 */2 * * *", "*/30 1,2 * * *", "17 * * * *"])
def test_times_do_not_depend_on_where_the_search_begins(expression: str, zone: str) -> None:
    """So all workers agree on what follows, whenever they look; times only grow, each occurs once."""
    source = Times(expression, ZoneInfo(zone))
    for begin in ("2026-03-07", "2026-03-28", "2026-04-04", "2026-10-03", "2026-10-24", "2026-10-31"):
        start, end = at(f"{begin} 20:00"), at(f"{begin} 20:00") + 16 * 3_600_000
        found, moment = [], start
        while (moment := source.after(moment) or 0) <= end:
            found.append(moment)
        assert found == sorted(set(found))
        for moment in range(start, end, 11 * 60_000 + 13_000):
            following = source.after(moment)
            assert following is not None
            assert following > end or following == min(time for time in found if time > moment)


# -- the last of several times ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "after", "until", "last"),
    [
        ("* * * * *", "2025-01-01 00:00", "2026-05-01 10:30", "2026-05-01 10:30"),
        ("*/5 * * * *", "2026-05-01 10:00", "2026-05-01 10:09", "2026-05-01 10:05"),
        ("0 3 * * *", "2026-01-01 03:00", "2026-05-01 02:59", "2026-04-30 03:00"),
        ("* * * 1 *", "2025-01-05 00:00", "2026-12-30 00:00", "2026-01-31 23:59"),
        ("0 0 29 2 *", "2020-02-29 00:00", "2027-01-01 00:00", "2024-02-29 00:00"),
        ("0 0 1 1 *", "2026-01-01 00:00", "2027-01-01 00:00", "2027-01-01 00:00"),
    ],
)
def test_last_time_of_an_outage_is_found(expression: str, after: str, until: str, last: str) -> None:
    source = Times(expression, UTC)
    first = source.after(at(after))
    assert first is not None
    assert source.last(first, at(until)) == source.last(first, at(until) + 999) == at(last)


def test_last_time_is_found_at_the_changes_of_summer_time() -> None:
    for zone in (BERLIN, NEW_YORK):
        source = Times("30 1,2 * * *", ZoneInfo(zone))
        for season in (SPRING, AUTUMN):
            start, end = map(at, season[zone])
            found, moment = [], start
            while (moment := source.after(moment) or 0) <= end:
                found.append(moment)
            for until in range(found[0], end, 7 * 60_000):
                assert source.last(found[0], until) == max(time for time in found if time <= until)


def test_times_carry_no_microseconds() -> None:
    moment = datetime(2026, 5, 1, 10, 0, 0, 500_000, tzinfo=UTC)
    assert Times("* * * * *", UTC).after(int(moment.timestamp() * 1000)) == milliseconds(moment + timedelta(seconds=59.5))
