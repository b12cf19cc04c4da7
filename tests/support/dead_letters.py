"""Steps that fail on demand, and waiting for their dead letters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from motia_redis import step
from tests.support.waiting import until
from tests.support.workers import Recorder

if TYPE_CHECKING:
    import redis

    from motia_redis._admin.dead_letters import DeadLetter, DeadLetters
    from motia_redis._steps.definitions import Step


class FailingHandler:
    """A handler that raises until `fixed` is set, and from then on records what it receives."""

    def __init__(self) -> None:
        self.fixed = False
        self.received = Recorder()

    async def __call__(self, input: Any, ctx: Any) -> None:
        if not self.fixed:
            raise ValueError("cannot\ndigest \x1b[31mthis")
        await self.received(input, ctx)


def failing_step(handler: Any, name: str, *triggers: Any) -> Step:
    """Return a step that gives up after two attempts."""
    return step({"name": name, "triggers": list(triggers), "max_attempts": 2, "backoff": 0.01}).handle(handler)


async def wait_for_dead_letters(letters: DeadLetters, count: int, step: str | None = None) -> list[DeadLetter]:
    """Wait until there are exactly `count` dead letters, of a step or of all steps; return them."""

    async def there() -> bool:
        return await letters.count(step) == count

    await until(there, f"{count} dead letters")
    return await letters.list(step)


async def wait_until_drained(raw: redis.Redis, namespace: str, *steps: str) -> None:
    """Wait until the steps have read and acknowledged every entry."""

    async def done() -> bool:
        for key in raw.scan_iter(f"{{{namespace}:*", _type="stream"):
            end = raw.xinfo_stream(key)["last-generated-id"]
            for group in raw.xinfo_groups(key):
                behind = group["last-delivered-id"] != end and raw.xlen(key)
                if group["name"].decode() in steps and (group["pending"] or behind):
                    return False
        return True

    await until(done, f"{steps} have handled every entry")
