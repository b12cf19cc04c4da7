"""Topics without a consumer group are on record, so that an operator sees what waits for a first step."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from motia_redis._admin.topics import UnreadTopic, read_unread_topics

if TYPE_CHECKING:
    import redis

    from motia_redis import StateManager
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._transport.router import Router


async def _topics(router: Router, names: Keyspace) -> list[tuple[str, int]]:
    return [(topic.name, topic.messages) for topic in await read_unread_topics(router, names)]


async def test_topics_without_group_are_listed_with_their_messages(state: StateManager, raw: redis.Redis) -> None:
    names, router = await state.connect(), await state.open_router()
    assert await read_unread_topics(router, names) == []
    for number in range(40):
        await state.enqueue("mail", number)
    await state.enqueue("sms", 1, key="ann")
    before = int(time.time() * 1000) - 60_000
    found = await read_unread_topics(router, names)
    assert [(topic.name, topic.messages) for topic in found] == [("mail", 40), ("sms", 1)]
    assert all(isinstance(topic, UnreadTopic) and topic.oldest > before for topic in found)
    raw.xgroup_create(names.topic(b"mail", 3), "Mail", "0", mkstream=True)
    assert await _topics(router, names) == [("sms", 1)], "a group in one lane: a step consumes the topic"
    raw.delete(names.topic(b"sms", names.lane(b"ann")))
    assert await _topics(router, names) == []
    await router.aclose()


async def test_many_topics_are_read_in_pages(state: StateManager, raw: redis.Redis) -> None:
    names, router = await state.connect(), await state.open_router()
    for number in range(3000):
        raw.sadd(names.topics(0), f"old{number}")
    await state.enqueue("mail", 1)
    assert await _topics(router, names) == [("mail", 1)]
    await router.aclose()
