"""What the commands `status`, `dead` and `steps` say about cron triggers."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from motia_redis import StateManager, cron
from motia_redis._admin.dead_letters import DeadLetters
from motia_redis._admin.status import read_status
from tests.support.clocks import set_namespace_time
from tests.support.commands import run_command
from tests.support.dead_letters import FailingHandler, failing_step, wait_for_dead_letters
from tests.support.waiting import until
from tests.support.workers import working

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import RedisServer

AT_THREE = datetime(2027, 5, 3, 3, 0, tzinfo=UTC)


async def test_commands_show_schedules_and_dead_letters_of_times(
    state: StateManager, server: RedisServer, namespace: str
) -> None:
    await set_namespace_time(state, AT_THREE - timedelta(seconds=58))
    letters = DeadLetters(state)
    async with working(state, failing_step(FailingHandler(), "Report", cron("0 3 * * *"))):
        done = await run_command(server, namespace, "status")
        assert "  Report: cron UTC 0 3 * * *: next in 0:00:5" in done.stdout
        await set_namespace_time(state, AT_THREE + timedelta(seconds=2))
        (letter,) = await wait_for_dead_letters(letters, 1)

        async def is_scheduled() -> bool:
            return (await read_status(state)).steps[0].schedules[0].next_in is not None

        await until(is_scheduled, "the next time is scheduled")
    done = await run_command(server, namespace, "dead", "list")
    assert "cron   UTC 0 3 * * *" in done.stdout
    done = await run_command(server, namespace, "dead", "show", "--step", "Report", letter.id, "--json")
    shown = json.loads(done.stdout)
    assert (shown["event_type"], shown["schedule"]) == ("cron", "UTC 0 3 * * *")
    assert shown["scheduled_at"] == "2027-05-03T03:00:00+00:00"
    await set_namespace_time(state, AT_THREE + timedelta(days=1, hours=1))
    done = await run_command(server, namespace, "status")
    assert "  Report: cron UTC 0 3 * * *: overdue: no process fires it: start a worker" in done.stdout
    (found,) = json.loads((await run_command(server, namespace, "status", "--json")).stdout)["steps"]
    (schedule,) = found["schedules"]
    assert schedule["name"] == "UTC 0 3 * * *"
    assert -3700 < schedule["next_in"] < -3590


async def test_steps_create_begins_the_schedules(
    state: StateManager, server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    await state.connect()
    (tmp_path / "app.py").write_text(
        "from motia_redis import cron, step\n\n\n"
        "@step({'name': 'Report', 'triggers': [cron('@daily')]})\ndef report(input): ...\n"
    )
    done = await run_command(server, namespace, "steps", "create", str(tmp_path / "app.py"))
    assert done.stdout.startswith("steps: Report; 1 consumer group created"), done.stderr
    done = await run_command(server, namespace, "status")
    assert "Report: cron UTC 0 0 * * *: next in " in done.stdout
