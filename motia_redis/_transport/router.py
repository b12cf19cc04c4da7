"""The primaries that hold the keys, as one event loop talks to them: one Redis, what sentinels name, or the nodes of a Cluster.

A command goes to the node that serves its key, and after a redirection to the one it names. What a node has refused or never got
is for the caller to send again; nothing is re-sent here that may have been run.

Calls share the connections of links.py, and a blocking read takes one apart. WAIT takes a connection of redis-py's pool
for itself, as does everything where there are no links (a fake Redis of a test).
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, ReadOnlyError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from motia_redis._transport.failures import UNREACHABLE
from motia_redis._transport.multiplexing import LARGE, ConnectionGroup, pack

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from redis.asyncio import Redis

    from motia_redis._transport.urls import Target

    Command = Sequence[Any]

_REDIRECTIONS = 5
_SLOTS = 16384


@dataclass(frozen=True, slots=True)
class _Node:
    client: Redis  #: of redis-py; opens all connections, and keeps a pool for what cannot share one
    connections: ConnectionGroup
    callbacks: dict[Any, Callable[[Any], Any]]  #: redis-py's own for replies, without its lookup that minds no case


class Router:
    """Clients of the primaries, found when they are needed and again after a failure.

    `connect` makes a client of a plain URL; whoever shares its connections waits `reply_timeout` seconds for a reply.
    """

    def __init__(self, target: Target, connect: Callable[[str], Redis], reply_timeout: float) -> None:
        self._target = target
        self._connect = connect
        self._reply_timeout = reply_timeout
        self._nodes: dict[str, _Node] = {}
        self._slots: list[str] = []  # URL of the primary by slot; all the same unless it is a Cluster
        self._finding = asyncio.Lock()
        if target.kind == "single":
            self._slots = [target.seeds[0]]

    @property
    def is_cluster(self) -> bool:
        """Whether a command over several keys needs them in one slot."""
        return self._target.kind == "cluster"

    # -- sending ------------------------------------------------------------------------------------------------------

    async def address_of(self, key: bytes | str) -> str:
        """Return what tells the node that serves `key` now from others."""
        return await self._locate(key)

    async def execute_at(self, address_of: str, *command: Any) -> Any:
        """Run a command at an `address`, whatever has moved since: a redirection is raised as any error reply."""
        reply = await self._send_shared(address_of, address_of, command)
        if isinstance(reply, MovedError):
            self._record_move(reply)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def execute(self, key: bytes | str, *command: Any) -> Any:
        """Run a command at the node that serves `key`; return its reply. Errors are redis-py's."""
        return (await self.pipeline(key, [command]))[0]

    async def pipeline(self, key: bytes | str, commands: Sequence[Command]) -> list[Any]:
        """Run commands over one connection to the node that serves `key`, in one round trip; return the replies.

        Only the first command may change anything: after a redirection all are sent again. Raises its error reply; those of the
        others stand in their places.
        """
        return await self._follow_redirections(key, commands, self._send_shared)

    async def execute_blocking(self, key: bytes | str, *command: Any) -> Any:
        """Run a command that waits inside of Redis, over a connection of its own; return its reply. Errors are redis-py's."""
        return (await self._follow_redirections(key, [command], self._send_dedicated))[0]

    async def _follow_redirections(
        self, key: bytes | str, commands: Sequence[Command], call: Callable[..., Awaitable[Any]]
    ) -> list[Any]:
        """Send commands, a single one by `call`, to where redirections lead."""
        slots, asking = self._slots, False
        url = slots[0] if len(slots) == 1 else await self._locate(key)
        for _ in range(_REDIRECTIONS):
            if len(commands) == 1 and not asking:
                replies = [await call(url, key, commands[0])]
            else:
                replies = await self._send_pooled(url, commands, asking=asking)
            error = replies[0]
            if not isinstance(error, Exception):
                return replies
            if not isinstance(error, AskError) or not self.is_cluster:
                raise error
            # Nothing was run. ASK holds for this one time, MOVED from now on.
            asking = not isinstance(error, MovedError)
            url = self._target.at(error.host, error.port) if asking else self._record_move(error)
        raise error

    async def gather_each(self, calls: Sequence[tuple[bytes | str, Command]]) -> list[Any]:
        """Run one command for each key, all at once; return the replies, or in their places the errors.

        Commands for one node go in one round trip, in order.
        """
        by_url: dict[str, list[int]] = {}
        for index, (key, _) in enumerate(calls):
            by_url.setdefault(await self._locate(key), []).append(index)
        found: list[Any] = [None] * len(calls)

        async def at_node(url: str, indexes: list[int]) -> None:
            try:
                replies = await self._send_batch(url, [calls[index] for index in indexes])
            except (RedisError, OSError) as error:
                replies = [error] * len(indexes)
            for index, reply in zip(indexes, replies, strict=True):
                found[index] = reply

        await asyncio.gather(*(at_node(url, indexes) for url, indexes in by_url.items()))
        for index, reply in enumerate(found):
            if isinstance(reply, AskError) and self.is_cluster:
                try:
                    found[index] = await self.execute(calls[index][0], *calls[index][1])
                except (RedisError, OSError) as error:
                    found[index] = error
        return found

    async def gather(self, calls: Sequence[tuple[bytes | str, Command]]) -> list[Any]:
        """Do as `run_each`, and raise the first error after all have run."""
        replies = await self.gather_each(calls)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    async def _send_shared(self, url: str, key: bytes | str, command: Command) -> Any:
        """Send a command over a shared connection; return the reply, or the error that is one."""
        node = self._nodes.get(url) or self._node(url)
        connections, data = node.connections, pack(command)
        large = len(data) >= LARGE or connections.expects_large_reply(key)
        try:
            connection = connections.available(large=large) or await connections.get(large=large)
            if connection is None:
                return (await self._send_pooled(url, [command]))[0]
            reply = await connection.send(data)
        except UNREACHABLE:
            self.invalidate()
            raise
        return self._decode_reply(node, key, command, reply)

    async def _send_dedicated(self, url: str, key: bytes | str, command: Command) -> Any:
        """Send a command over a link that nobody else uses meanwhile; return the reply, or the error that is one."""
        node = self._node(url)
        try:
            connection = await node.connections.acquire_dedicated()
            if connection is None:
                return (await self._send_pooled(url, [command]))[0]
            try:
                return self._decode_reply(node, key, command, await connection.send(pack(command)))
            finally:
                node.connections.release_dedicated(connection)
        except UNREACHABLE:
            self.invalidate()
            raise

    async def _send_batch(self, url: str, calls: Sequence[tuple[bytes | str, Command]]) -> list[Any]:
        """Send commands over one shared connection, in order; return the replies, error replies in their places."""
        node = self._node(url)
        packed = [pack(command) for _, command in calls]
        large = sum(map(len, packed)) >= LARGE or any(node.connections.expects_large_reply(key) for key, _ in calls)
        try:
            connection = await node.connections.get(large=large)
            if connection is None:
                return await self._send_pooled(url, [command for _, command in calls])
            futures = [connection.send(data) for data in packed]
            replies = await asyncio.gather(*futures)
        except UNREACHABLE:
            self.invalidate()
            raise
        return [self._decode_reply(node, *call, reply) for call, reply in zip(calls, replies, strict=True)]

    def _decode_reply(self, node: _Node, key: bytes | str, command: Command, reply: Any) -> Any:
        """Return a reply in the form that redis-py gives it, and remember what is to be known of it."""
        if isinstance(reply, bytes):
            if len(reply) >= LARGE:
                node.connections.note_large_reply(key)
        elif isinstance(reply, list):
            if reply and isinstance(reply[-1], bytes) and len(reply[-1]) >= LARGE:
                node.connections.note_large_reply(key)
        elif isinstance(reply, ReadOnlyError):
            self.invalidate()
        callback = node.callbacks.get(command[0])
        return callback(reply) if callback and not isinstance(reply, Exception) else reply

    async def _send_pooled(self, url: str, commands: Sequence[Command], *, asking: bool = False) -> list[Any]:
        """Send commands over a connection that nobody else uses meanwhile; return the replies, error replies in their places."""
        client = self._node(url).client
        try:
            if len(commands) == 1 and not asking:
                try:
                    return [await client.execute_command(*commands[0])]
                except UNREACHABLE:
                    raise
                except RedisError as error:
                    replies: list[Any] = [error]
            else:
                async with client.pipeline(transaction=False) as pipeline:
                    for command in commands:
                        if asking:
                            pipeline.execute_command("ASKING")
                        pipeline.execute_command(*command)
                    replies = await pipeline.execute(raise_on_error=False)
                    replies = replies[1::2] if asking else replies
        except UNREACHABLE:
            self.invalidate()
            raise
        if any(isinstance(reply, ReadOnlyError) for reply in replies):
            self.invalidate()
        return replies

    # -- finding ------------------------------------------------------------------------------------------------------

    async def primaries(self) -> list[Redis]:
        """Return a client of each primary that serves keys."""
        await self._locate(b"")
        return [self._node(url).client for url in dict.fromkeys(self._slots)]

    def _record_move(self, moved: AskError) -> str:
        """Remember where a slot is now, and return it."""
        url = self._target.at(moved.host, moved.port)
        if len(self._slots) == _SLOTS:
            self._slots[moved.slot_id] = url
        return url

    def invalidate(self) -> None:
        """Look for the primaries anew before the next command: one was not there, or is none any more."""
        if self._target.kind != "single":
            self._slots = []

    async def aclose(self) -> None:
        """Close all connections; calls that wait fail."""
        nodes, self._nodes = self._nodes, {}
        async with AsyncExitStack() as closing:  # which goes on to the others when it is cancelled at one
            for node in nodes.values():
                closing.push_async_callback(self._close, node)

    @staticmethod
    async def _close(node: _Node) -> None:
        try:
            await node.connections.aclose()
        finally:
            await node.client.aclose()

    def _node(self, url: str) -> _Node:
        node = self._nodes.get(url)
        if node is None:
            client = self._connect(url)
            connections = ConnectionGroup(client.connection_pool.make_connection, self._reply_timeout)
            node = self._nodes[url] = _Node(client, connections, dict(client.response_callbacks))
        return node

    async def _locate(self, key: bytes | str) -> str:
        slots = self._slots
        if not slots:
            async with self._finding:
                if not self._slots:
                    self._slots = await (self._query_cluster() if self.is_cluster else self._query_sentinels())
                slots = self._slots
        return slots[0] if len(slots) == 1 else slots[key_slot(key if isinstance(key, bytes) else key.encode())]

    async def _query_sentinels(self) -> list[str]:
        command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._target.service)
        failure: Exception = RedisConnectionError("no sentinel answers")
        for seed in self._target.seeds:
            client = self._connect(seed)
            try:
                address_of: Any = await client.execute_command(*command)
            except (RedisError, OSError) as error:
                failure = error
                continue
            finally:
                await client.aclose()
            if address_of:
                url = self._target.at(address_of[0].decode(), int(address_of[1]))
                # An old primary that still answers must get no more of ours.
                for old in [old for old in self._nodes if old != url]:
                    await self._close(self._nodes.pop(old))
                return [url]
            failure = RedisConnectionError(f"the sentinels know no service {self._target.service!r}")
        raise failure

    async def _query_cluster(self) -> list[str]:
        """Return the primaries as any node knows them, those asked first that served slots before."""
        failure: Exception = RedisConnectionError("no node of the Cluster answers")
        for seed in dict.fromkeys([*self._nodes, *self._target.seeds]):
            known = self._nodes.get(seed)
            client = known.client if known else self._connect(seed)
            try:
                ranges: Any = await client.execute_command("CLUSTER SLOTS")
            except (RedisError, OSError) as error:
                failure = error
                continue
            finally:
                if not known:
                    await client.aclose()
            slots = [""] * _SLOTS
            for first, last, (host, port, *_), *_ in ranges:
                # A node that does not know its own address leaves it to whoever could reach it.
                url = self._target.at(host.decode(), port) if host not in (b"", b"?", None) else seed
                slots[first : last + 1] = [url] * (last + 1 - first)
            if all(slots):
                return slots
            failure = RedisConnectionError("CLUSTERDOWN the Cluster does not serve all slots")
        raise failure
