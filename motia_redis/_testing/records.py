"""What happened in a test: the changes of state, and the messages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from motia_redis._admin.scheduled import Scheduled
from motia_redis._steps import events
from motia_redis._steps.wants import TTL_CHANGED
from motia_redis._store.entry_ids import order
from motia_redis._store.keyspace import RESERVED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from motia_redis._steps.inputs import StateTriggerInput
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.manager import StateManager
    from motia_redis._transport.router import Router

_TOPIC = re.compile(rb"\}:topic:\d+:(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Describe a message that was sent with `enqueue`."""

    topic: str
    data: Any
    key: str | None = None
    id: str = ""  #: what `enqueue` returned
    due: datetime | None = None  #: of a message that waits: when it will be sent, by the clock of the namespace


async def read_changes(
    router: Router, keyspace: Keyspace, scope: str | None, since: Mapping[bytes, str]
) -> list[StateTriggerInput]:
    """Return the changes of a scope, or of all scopes but those of streams' items, in their order."""
    streams = keyspace.event_streams(scope)
    replies = await router.gather([(name, ("XRANGE", name, f"({since.get(name, '0-0')}", "+")) for name in streams])
    found = []
    for entry_id, fields in (entry for reply in replies for entry in reply):
        wanted = not fields[b"scope"].startswith(RESERVED) if scope is None else fields[b"scope"] == scope.encode()
        if wanted and fields[b"type"] != TTL_CHANGED:
            found.append(events.decode_change(entry_id.decode(), fields))
    return sorted(found, key=lambda change: order(change.revision))


async def read_messages(
    state: StateManager, router: Router, keyspace: Keyspace, topic: str | None, since: Mapping[bytes, str]
) -> list[Message]:
    """Return the messages to a topic, or to all topics, in their order, and behind them those that wait for their time."""
    if topic is None:
        names = await router.execute(keyspace.scopes(0), "KEYS", f"{{{keyspace.namespace}:0}}:topic:*")
        streams = [name for name in names if _TOPIC.search(name)]
    else:
        streams = keyspace.topic_streams(topic)
    replies = await router.gather([(name, ("XRANGE", name, f"({since.get(name, '0-0')}", "+")) for name in streams])
    entries = [(entry_id.decode(), fields) for reply in replies for entry_id, fields in reply if b"only" not in fields]
    sent = [
        Message(
            topic=fields[b"topic"].decode(),
            data=events.decode_message(entry_id, fields),
            key=fields.get(b"key", b"").decode() or None,
            id=fields[b"request"].decode(),
        )
        for entry_id, fields in sorted(entries, key=lambda entry: order(entry[0]))
    ]
    waiting = [
        Message(topic=message.topic, data=message.data, key=message.key, id=message.id, due=message.due.astimezone(UTC))
        for message in await Scheduled(state).list(topic, limit=1_000_000)
    ]
    return sent + waiting


async def ends_of(router: Router, keyspace: Keyspace, streams: list[bytes]) -> dict[bytes, str]:
    """Return the id of the newest entry of each stream."""
    names = [*keyspace.event_streams(), *streams]
    replies = await router.gather([(name, ("XREVRANGE", name, "+", "-", "COUNT", 1)) for name in names])
    return {name: reply[0][0].decode() for name, reply in zip(names, replies, strict=True) if reply}
