"""Reports of a Redis that is away."""

from __future__ import annotations

import logging

import pytest

from motia_redis._transport import outages
from motia_redis._transport.outages import Outage

LOG = logging.getLogger("motia_redis.test")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(outages.time, "monotonic", lambda: now[0])
    return now


def test_outage_is_one_line_when_it_begins_one_a_minute_and_one_when_it_ends(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    outage = Outage("redis://user:secret@host:1/0", LOG, "no event is read")
    outage.answered()
    for _ in range(650):  # five times a second, for 130 s
        outage.failed("Connection refused")
        clock[0] += 0.2
    for _ in range(5):
        outage.answered()
    assert caplog.messages == [
        "Redis at redis://host:1/0 is away, and no event is read: Connection refused",
        "Redis at redis://host:1/0 has been away for 60 s: Connection refused",
        "Redis at redis://host:1/0 has been away for 120 s: Connection refused",
        "Redis at redis://host:1/0 is back after 130.0 s",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_failure_long_after_the_last_one_is_another_outage(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage("redis://host", LOG, "requests fail")
    outage.failed("gone")
    clock[0] += 3600  # no request has asked meanwhile
    outage.failed("is full", refused=True)
    clock[0] += 60
    outage.failed("is full", refused=True)
    outage.answered()
    assert caplog.messages == [
        "Redis at redis://host is away, and requests fail: gone",
        "Redis at redis://host refuses calls, and requests fail: is full",
        "Redis at redis://host has refused calls for 60 s: is full",
        "Redis at redis://host accepts calls again after 60.0 s",
    ]


def test_each_outage_is_reported(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage("redis://host", LOG, "no event is read")
    for _ in range(2):
        outage.failed("gone")
        clock[0] += 1
        outage.answered()
    assert [message.split(" after")[0].split(",")[0] for message in caplog.messages] == [
        "Redis at redis://host is away",
        "Redis at redis://host is back",
    ] * 2
