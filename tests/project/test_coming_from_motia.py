"""The page for users of Motia's Python package says something about every public name of the package."""

from __future__ import annotations

import re

import pytest

from tests.support.snippets import ROOT

PAGE = (ROOT / "docs" / "coming-from-motia.md").read_text()

#: `__all__` of motia 1.0.4rc1.
_TEXT = """
    get_instance init_iii ChannelReader ChannelWriter Motia setup_step_endpoint generate_step_id api http queue cron state stream
    schema_to_json_schema step StepDefinition StepBuilder multi_trigger_step MultiTriggerStepBuilder ApiMiddleware ApiRequest
    ApiResponse ApiRouteMethod MotiaHttpRequest MotiaHttpArgs MotiaHttpResponse ApiTrigger CronTrigger Enqueue Enqueuer
    FlowContext QueryParam QueueTrigger StateTrigger StateTriggerInput Step StepConfig StreamConfig StreamAuthInput
    StreamAuthResult StreamEvent StreamSubscription StreamTrigger StreamTriggerInput TriggerCondition TriggerConfig TriggerInfo
    TriggerInput enqueue logger Stream StateManager stateManager is_api_trigger is_queue_trigger is_cron_trigger
    is_state_trigger is_stream_trigger is_api_step is_queue_step is_cron_step is_state_step is_stream_step get_api_triggers
    get_queue_triggers get_cron_triggers get_state_triggers get_stream_triggers tracing
"""
NAMES = _TEXT.split()
ROWS = [line.split("|")[1:-1] for line in PAGE.splitlines() if line.startswith("| ")]


@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_about_every_name(name: str) -> None:
    assert [left for left, *_ in ROWS if re.search(rf"`{name}\b[^`]*`|`[^`]*\({name}\(", left)], name


def test_names_that_the_page_calls_missing_are_missing() -> None:
    import motia_redis
    from motia_redis import types

    for left, right, *_ in ROWS:
        for name in re.findall(r"`(\w+)`", left) if right.strip().startswith("missing") else []:
            assert name not in motia_redis.__all__, name
            assert name not in types.__all__, name
