"""What handlers get beside their input, and sending messages to other steps."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from motia_redis import enqueue
from motia_redis._steps import ambient
from motia_redis._steps.context import FlowContext, TriggerInfo
from motia_redis._steps.inputs import StateTriggerInput
from motia_redis._steps.logs import Logger
from motia_redis.errors import StepError


def test_timestamp_of_a_change_is_the_milliseconds_of_its_revision() -> None:
    change = StateTriggerInput(
        group_id="users",
        item_id="u1",
        old_value=None,
        new_value=1,
        event_type="state:created",
        revision="1700000000123-4",
    )
    assert change.timestamp == 1700000000123
    assert change.type == "state"


class FakeState:
    def __init__(self) -> None:
        self.sent: list[tuple[Any, ...]] = []

    async def enqueue(self, topic: str, data: Any, *, key: str | None, delay: float | None, at: float | datetime | None) -> str:
        self.sent.append((topic, data, key, *(time for time in (delay, at) if time is not None)))
        return "1-0"


def context_on(fake: FakeState) -> FlowContext:
    return FlowContext(
        state=fake,  # type: ignore[arg-type]
        logger=Logger("S"),
        trace_id="0" * 31 + "1",
        trigger=TriggerInfo(type="queue", topic="t", message_id="1-0", attempt=1),
        step_name="S",
    )


async def test_enqueue_sends_topic_data_and_key() -> None:
    fake = FakeState()
    await context_on(fake).enqueue({"topic": "t", "data": None})
    await context_on(fake).enqueue({"topic": "t", "data": [1], "key": "k"})
    assert fake.sent == [("t", None, None), ("t", [1], "k")]


async def test_enqueue_passes_the_time_on_and_returns_the_message_id() -> None:
    fake, time = FakeState(), datetime.now(UTC)
    assert await context_on(fake).enqueue({"topic": "t", "data": 1}, delay=5) == "1-0"
    await context_on(fake).enqueue({"topic": "t", "data": 2}, at=time)
    assert fake.sent == [("t", 1, None, 5), ("t", 2, None, time)]


@pytest.mark.parametrize(
    "message",
    [
        "t",
        {"topic": "t"},
        {"data": 1},
        {"topic": "", "data": 1},
        {"topic": 1, "data": 1},
        {"topic": "t", "data": 1, "key": ""},
        {"topic": "t", "data": 1, "kye": "k"},
    ],
)
async def test_message_of_another_shape_is_rejected_and_nothing_is_sent(message: Any) -> None:
    fake = FakeState()
    with pytest.raises(StepError, match="enqueue"):
        await context_on(fake).enqueue(message)
    assert fake.sent == []


async def test_global_enqueue_uses_the_global_state_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeState()
    monkeypatch.setattr(ambient.stateManager, "plain", fake)
    assert await enqueue({"topic": "t", "data": 1}) == "1-0"
    await enqueue({"topic": "t", "data": 2}, delay=0.5)
    assert fake.sent == [("t", 1, None), ("t", 2, None, 0.5)]
