"""Create what a version of an application needs in Redis before its workers run: consumer groups and schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from motia_redis._ids import random_id
from motia_redis._scripts import delivery
from motia_redis._store.keyspace import is_cron
from motia_redis._worker.lanes import lane_keys, topic_streams
from motia_redis._worker.membership import Membership
from motia_redis._worker.scheduling import schedule_now
from motia_redis._worker.subscriptions import Subscription

if TYPE_CHECKING:
    from collections.abc import Sequence

    from motia_redis._scripts.delivery import Start
    from motia_redis._steps.definitions import Step
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._transport.router import Router


async def create_groups(router: Router, keyspace: Keyspace, steps: Sequence[Step], *, lease: float) -> int:
    """Create the missing consumer groups of steps, tell live workers of this version, and return the number of new groups."""
    subscriptions = [Subscription(step, keyspace) for step in steps]
    lanes = [lane_keys(subscription, stream, keyspace) for subscription in subscriptions for stream in subscription.streams]
    topics = topic_streams(subscriptions, keyspace)
    created = await delivery.create_group(router, [(lane, _start(lane.stream, topics)) for lane in lanes])
    membership = Membership(
        random_id(16),
        router,
        keyspace,
        lanes={},
        steps={each.group: each.wants for each in subscriptions},
        lease=lease,
        on_change=lambda: None,
        on_paused=lambda _: None,
    )
    await membership.introduce()
    await schedule_now(router, keyspace, [step for step in steps if step.name not in membership.paused])
    return sum(created)


def _start(stream: bytes, topics: set[bytes]) -> Start:
    """Return where a new group of a stream starts. Times of cron triggers fire for their step only, so it needs all of them."""
    if stream in topics:
        return "topic"
    return "begin" if is_cron(stream) else "end"
