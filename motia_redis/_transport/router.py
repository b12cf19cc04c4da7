"""Send commands to the primary that serves their key: one Redis, the primary that sentinels name, or a node of a Cluster.

A router follows redirections, because a redirected command was not run. It sends nothing again that may have been run: that is
for the caller, who knows whether the command may run twice.

Calls share multiplexed connections; a blocking read uses a dedicated one. Commands in front of WAIT use a connection of the pool
of redis-py, as does everything where a client has no transport of its own (a fake Redis in a test).
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
    client: Redis  #: redis-py's; opens all connections, and has a pool for commands that cannot share one
    connections: ConnectionGroup
    callbacks: dict[Any, Callable[[Any], Any]]  #: redis-py's conversions of replies, by command


class Router:
    """Connections to the primaries, which are located on first use and again after a failure.

    `connect` returns a client of a plain URL. A call over a shared connection waits `reply_timeout` seconds for its reply.
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
        """Return whether the keys of one command have to lie in one slot."""
        return self._target.kind == "cluster"

    # -- sending ------------------------------------------------------------------------------------------------------

    async def execute(self, key: bytes | str, *command: Any) -> Any:
        """Run a command at the node that serves `key` and return its reply. Errors are redis-py's."""
        slots = self._slots
        url = slots[0] if len(slots) == 1 else await self._locate(key)
        reply = await self._send_shared(url, key, command)
        if isinstance(reply, Exception):
            return (await self._redirect(reply, key, [command], self._send_shared))[0]
        return reply

    async def pipeline(self, key: bytes | str, commands: Sequence[Command]) -> list[Any]:
        """Run commands over one connection to the node that serves `key`, in one round trip, and return the replies.

        Only the first command may change anything: after a redirection all commands are sent again. Raises the first command's
        error reply; error replies of the others stand in their places.
        """
        if len(commands) == 1:
            return [await self.execute(key, *commands[0])]
        replies = await self._send_pooled(await self._locate(key), commands)
        if isinstance(replies[0], Exception):
            return await self._redirect(replies[0], key, commands, self._send_shared)
        return replies

    async def execute_blocking(self, key: bytes | str, *command: Any) -> Any:
        """Run a command that waits inside Redis over a dedicated connection and return its reply. Errors are redis-py's."""
        reply = await self._send_dedicated(await self._locate(key), key, command)
        if isinstance(reply, Exception):
            return (await self._redirect(reply, key, [command], self._send_dedicated))[0]
        return reply

    async def address_of(self, key: bytes | str) -> str:
        """Return the address of the node that serves `key` now, for `execute_at`."""
        return await self._locate(key)

    async def execute_at(self, address: str, *command: Any) -> Any:
        """Run a command at an `address`, even if its keys have moved: a redirection is raised like any error reply."""
        reply = await self._send_shared(address, address, command)
        if isinstance(reply, MovedError):
            self._record_move(reply)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def gather(self, calls: Sequence[tuple[bytes | str, Command]], *, return_exceptions: bool = False) -> list[Any]:
        """Run one command for each key, all at once, and return the replies.

        Commands for one node go in one round trip, in order. Raises the first error after all commands have run; with
        `return_exceptions` errors stand in the places of their replies.
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
        if not return_exceptions and (failed := next((reply for reply in found if isinstance(reply, Exception)), None)):
            raise failed
        return found

    async def _redirect(
        self, error: Exception, key: bytes | str, commands: Sequence[Command], send: Callable[..., Awaitable[Any]]
    ) -> list[Any]:
        """Send commands, a single one by `send`, where a redirection leads. Raise `error` if it is no redirection."""
        for _ in range(_REDIRECTIONS):
            if not isinstance(error, AskError) or not self.is_cluster:
                break
            # Nothing was run. ASK holds for this one time, MOVED from now on.
            asking = not isinstance(error, MovedError)
            url = self._target.at(error.host, error.port) if asking else self._record_move(error)
            if len(commands) == 1 and not asking:
                replies = [await send(url, key, commands[0])]
            else:
                replies = await self._send_pooled(url, commands, asking=asking)
            if not isinstance(replies[0], Exception):
                return replies
            error = replies[0]
        raise error

    async def _send_shared(self, url: str, key: bytes | str, command: Command) -> Any:
        """Send a command over a shared connection and return the reply or the error reply."""
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
        """Send a command over a dedicated connection and return the reply or the error reply."""
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
        """Send commands over one shared connection, in order, and return the replies and error replies."""
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
        """Return a reply in the form that redis-py gives it. Note large replies, and a primary that became a replica."""
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
        """Send commands over a pooled connection, which no other call uses meanwhile; return the replies and error replies."""
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

    # -- locating ------------------------------------------------------------------------------------------------------

    async def primaries(self) -> list[Redis]:
        """Return a redis-py client of each primary that serves keys."""
        await self._locate(b"")
        return [self._node(url).client for url in dict.fromkeys(self._slots)]

    def _record_move(self, moved: AskError) -> str:
        """Record the new node of a slot and return its URL."""
        url = self._target.at(moved.host, moved.port)
        if len(self._slots) == _SLOTS:
            self._slots[moved.slot_id] = url
        return url

    def invalidate(self) -> None:
        """Locate the primaries again before the next command: one did not answer, or is a replica now."""
        if self._target.kind != "single":
            self._slots = []

    async def aclose(self) -> None:
        """Close all connections. Calls that wait for a reply fail."""
        nodes, self._nodes = self._nodes, {}
        async with AsyncExitStack() as closing:  # closes all nodes, also when one wait is cancelled
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
                # An old primary that still answers must get no more calls.
                for old in [old for old in self._nodes if old != url]:
                    await self._close(self._nodes.pop(old))
                return [url]
            failure = RedisConnectionError(f"the sentinels know no service {self._target.service!r}")
        raise failure

    async def _query_cluster(self) -> list[str]:
        """Return the URL of the primary of each slot, as the first node that answers knows it. Ask known primaries first."""
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
                # A node that does not know its own address leaves it out. Its address is then the one that answered.
                url = self._target.at(host.decode(), port) if host not in (b"", b"?", None) else seed
                slots[first : last + 1] = [url] * (last + 1 - first)
            if all(slots):
                return slots
            failure = RedisConnectionError("CLUSTERDOWN the Cluster does not serve all slots")
        raise failure
