"""Send commands to the primary that serves their key: one Redis, the primary that sentinels name, or a node of a Cluster.

A router follows redirections, because a redirected command was not run. It sends nothing again that may have been run: that is
for the caller, who knows whether the command may run twice.

Calls share multiplexed connections. A blocking read, and a command with a WAIT behind it, use a dedicated one.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from redis.crc import key_slot
from redis.exceptions import RedisError

from motia_redis._transport.failures import UNREACHABLE, ConnectFailed, ErrorReply, NoScript, Redirection
from motia_redis._transport.multiplexing import LARGE, ConnectionGroup, pack
from motia_redis._transport.replies import convert

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from motia_redis._transport.multiplexing import MultiplexedConnection
    from motia_redis._transport.urls import Server, Target

    Command = Sequence[Any]
    Connect = Callable[[Server], Awaitable[MultiplexedConnection]]

_REDIRECTIONS = 5
_SLOTS = 16384


class Node:
    """One primary, and the connections to it."""

    __slots__ = ("connections", "server")

    def __init__(self, server: Server, connect: Connect, max_connections: int, on_end: Callable[[object], None]) -> None:
        self.server: Server = server
        self.connections: ConnectionGroup = ConnectionGroup(lambda: connect(server), max_connections, on_end)


class Router:
    """Connections to the primaries, which are located on first use and again after a failure.

    `connect` opens a connection to a server; at most `max_connections` to one node are dedicated at once.
    """

    def __init__(self, target: Target, connect: Connect, max_connections: int) -> None:
        self._target = target
        self._connect = connect
        self._max_connections = max_connections
        self.server_version: tuple[int, int] | None = None  #: of the server that was connected to last; None = unknown
        self.functions: Any = None  #: how scripts run at these servers: see _scripts/functions.py, which sets it
        self.losses: int = 0  #: connections that ended: another server, or one without its data, may answer from then on
        self._nodes: dict[str, Node] = {}  # by address
        self._slots: list[Node] = []  # the primary of each slot; the only one unless it is a Cluster
        self._locating = asyncio.Lock()
        if target.kind == "single":
            self._slots = [self._node(target.seeds[0])]

    @property
    def is_cluster(self) -> bool:
        """Return whether the keys of one command have to lie in one slot."""
        return self._target.kind == "cluster"

    # -- sending ------------------------------------------------------------------------------------------------------

    async def execute(self, key: bytes | str, *command: Any) -> Any:
        """Run a command at the node that serves `key` and return its reply. Raises what failures.py describes."""
        slots = self._slots
        node = slots[0] if len(slots) == 1 else await self._locate(key)
        reply = await self._send_shared(node, key, command)
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
        replies = await self._send_exclusively(await self._locate(key), commands)
        if isinstance(replies[0], Exception):
            return await self._redirect(replies[0], key, commands, self._send_shared)
        return replies

    async def execute_blocking(self, key: bytes | str, *command: Any) -> Any:
        """Run a command that waits inside Redis over a dedicated connection and return its reply. Raises as `execute`."""
        reply = await self._send_dedicated(await self._locate(key), key, command)
        if isinstance(reply, Exception):
            return (await self._redirect(reply, key, [command], self._send_dedicated))[0]
        return reply

    async def node_of(self, key: bytes | str) -> Node:
        """Return the node that serves `key` now, for `execute_at`."""
        return await self._locate(key)

    async def primaries(self) -> list[Node]:
        """Return all nodes that serve keys."""
        await self._locate(b"")
        return list(dict.fromkeys(self._slots))

    async def execute_at(self, node: Node, *command: Any) -> Any:
        """Run a command at a node, even if its keys have moved: a redirection is raised like any error reply."""
        reply = await self._send_shared(node, node, command)
        if isinstance(reply, Redirection) and reply.is_permanent:
            self._record_move(reply)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def open_apart(self) -> MultiplexedConnection | None:
        """Open a connection that no call uses, for the caller to close. None: with TLS, or if there may be several servers."""
        if self._target.kind != "single" or self._slots[0].server.tls is not None:
            return None
        return await self._open(self._slots[0].server)

    async def gather(self, calls: Sequence[tuple[bytes | str, Command]], *, return_exceptions: bool = False) -> list[Any]:
        """Run one command for each key, all at once, and return the replies.

        Commands for one node go in one round trip, in order. Raises the first error after all commands have run; with
        `return_exceptions` errors stand in the places of their replies.
        """
        by_node: dict[Node, list[int]] = {}
        for index, (key, _) in enumerate(calls):
            by_node.setdefault(await self._locate(key), []).append(index)
        found: list[Any] = [None] * len(calls)

        async def at_node(node: Node, indexes: list[int]) -> None:
            try:
                replies = await self._send_batch(node, [calls[index] for index in indexes])
            except RedisError as error:
                replies = [error] * len(indexes)
            for index, reply in zip(indexes, replies, strict=True):
                found[index] = reply

        await asyncio.gather(*(at_node(node, indexes) for node, indexes in by_node.items()))
        for index, reply in enumerate(found):
            if isinstance(reply, Redirection) and self.is_cluster:
                try:
                    found[index] = await self.execute(calls[index][0], *calls[index][1])
                except RedisError as error:
                    found[index] = error
        if not return_exceptions and (failed := next((reply for reply in found if isinstance(reply, Exception)), None)):
            raise failed
        return found

    async def _redirect(
        self, error: Exception, key: bytes | str, commands: Sequence[Command], send: Callable[..., Awaitable[Any]]
    ) -> list[Any]:
        """Send commands, a single one by `send`, where a redirection leads. Raise `error` if it is no redirection."""
        for _ in range(_REDIRECTIONS):
            if not isinstance(error, Redirection) or not self.is_cluster:
                break
            # Nothing was run. ASK holds for this one time, MOVED from now on.
            if not error.is_permanent:
                node = self._node(self._target.primary.at(error.host, error.port))
                asking = [part for command in commands for part in (("ASKING",), command)]
                replies = (await self._send_exclusively(node, asking))[1::2]
            elif len(commands) == 1:
                replies = [await send(self._record_move(error), key, commands[0])]
            else:
                replies = await self._send_exclusively(self._record_move(error), commands)
            if not isinstance(replies[0], Exception):
                return replies
            error = replies[0]
        raise error

    async def _send_shared(self, node: Node, key: Any, command: Command) -> Any:
        """Send a command over a shared connection and return the reply or the error reply."""
        connections, data = node.connections, pack(command)
        large = len(data) >= LARGE or connections.expects_large_reply(key)
        try:
            connection = connections.available(large=large) or await connections.get(large=large)
            reply = await connection.send(data)
        except UNREACHABLE:
            self.invalidate()
            raise
        return self._received(node, key, command, reply)

    async def _send_dedicated(self, node: Node, key: Any, command: Command) -> Any:
        """Send a command over a dedicated connection and return the reply or the error reply."""
        (reply,) = await self._on_dedicated(node, [command])
        return self._received(node, key, command, reply)

    async def _send_exclusively(self, node: Node, commands: Sequence[Command]) -> list[Any]:
        """Send commands over a connection that no other call uses meanwhile; return the replies and error replies."""
        replies = await self._on_dedicated(node, commands)
        return [self._received(node, None, command, reply) for command, reply in zip(commands, replies, strict=True)]

    async def _on_dedicated(self, node: Node, commands: Sequence[Command]) -> list[Any]:
        try:
            connection = await node.connections.acquire_dedicated()
            try:
                return await asyncio.gather(*[connection.send(pack(command)) for command in commands])
            finally:
                node.connections.release_dedicated(connection)
        except UNREACHABLE:
            self.invalidate()
            raise

    async def _send_batch(self, node: Node, calls: Sequence[tuple[bytes | str, Command]]) -> list[Any]:
        """Send commands over one shared connection, in order, and return the replies and error replies."""
        connections = node.connections
        packed = [pack(command) for _, command in calls]
        large = sum(map(len, packed)) >= LARGE or any(connections.expects_large_reply(key) for key, _ in calls)
        try:
            connection = await connections.get(large=large)
            replies = await asyncio.gather(*[connection.send(data) for data in packed])
        except UNREACHABLE:
            self.invalidate()
            raise
        return [self._received(node, *call, reply) for call, reply in zip(calls, replies, strict=True)]

    def _received(self, node: Node, key: Any, command: Command, reply: Any) -> Any:
        """Return a reply in its form. Note a large reply, a primary that became a replica, and which node lacks a script."""
        if isinstance(reply, bytes):
            if len(reply) >= LARGE:
                node.connections.note_large_reply(key)
        elif isinstance(reply, list):
            if reply and isinstance(reply[-1], bytes) and len(reply[-1]) >= LARGE:
                node.connections.note_large_reply(key)
        elif isinstance(reply, NoScript):
            reply.node = node
        elif isinstance(reply, ErrorReply) and reply.code == "READONLY":
            self.invalidate()
        return convert(command[0], reply)

    # -- locating -----------------------------------------------------------------------------------------------------

    def _record_move(self, moved: Redirection) -> Node:
        """Record the new node of a slot and return it."""
        node = self._node(self._target.primary.at(moved.host, moved.port))
        if len(self._slots) == _SLOTS:
            self._slots[moved.slot] = node
        return node

    def invalidate(self) -> None:
        """Locate the primaries again before the next command: one did not answer, or is a replica now."""
        if self._target.kind != "single":
            self._slots = []

    async def aclose(self) -> None:
        """Close all connections. Calls that wait for a reply fail."""
        if self.functions is not None:
            self.functions.close()
        nodes, self._nodes = self._nodes, {}
        async with AsyncExitStack() as closing:  # it goes on to the other nodes when it is cancelled at one
            for node in nodes.values():
                closing.push_async_callback(node.connections.aclose)

    def _node(self, server: Server) -> Node:
        node = self._nodes.get(server.address)
        if node is None:
            node = self._nodes[server.address] = Node(server, self._open, self._max_connections, self._count_loss)
        return node

    async def _open(self, server: Server) -> MultiplexedConnection:
        connection = await self._connect(server)
        self.server_version = connection.server_version
        return connection

    def _count_loss(self, _: object) -> None:
        self.losses += 1

    async def _locate(self, key: bytes | str) -> Node:
        slots = self._slots
        if not slots:
            async with self._locating:
                if not self._slots:
                    self._slots = await (self._query_cluster() if self.is_cluster else self._query_sentinels())
                slots = self._slots
        return slots[0] if len(slots) == 1 else slots[key_slot(key if isinstance(key, bytes) else key.encode())]

    async def _ask(self, server: Server, *command: Any) -> Any:
        """Run a command over a connection that is closed afterwards."""
        connection = await self._connect(server)
        try:
            reply = await connection.send(pack(command))
        finally:
            connection.close()
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def _query_sentinels(self) -> list[Node]:
        failure: RedisError = ConnectFailed("no sentinel answers")
        for sentinel in self._target.seeds:
            try:
                address = await self._ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._target.service)
            except RedisError as error:
                failure = error
                continue
            if address:
                node = self._node(self._target.primary.at(address[0].decode(), int(address[1])))
                # An old primary that still answers must get no more calls.
                for old in [old for old, other in self._nodes.items() if other is not node]:
                    await self._nodes.pop(old).connections.aclose()
                return [node]
            failure = ConnectFailed(f"the sentinels know no service {self._target.service!r}")
        raise failure

    async def _query_cluster(self) -> list[Node]:
        """Return the primary of each slot, as the first node that answers knows it. Ask known primaries first."""
        failure: RedisError = ConnectFailed("no node of the Cluster answers")
        known = [node.server for node in self._nodes.values()]
        for server in dict.fromkeys([*known, *self._target.seeds]):
            try:
                ranges = await self._ask(server, "CLUSTER", "SLOTS")
            except RedisError as error:
                failure = error
                continue
            slots: list[Node | None] = [None] * _SLOTS
            for first, last, (host, port, *_), *_ in ranges:
                # A node that does not know its own address leaves it out: it is the address that answered.
                primary = self._target.primary.at(host.decode(), port) if host not in (b"", b"?", None) else server
                slots[first : last + 1] = [self._node(primary)] * (last + 1 - first)
            served = [slot for slot in slots if slot is not None]
            if len(served) == _SLOTS:
                return served
            failure = ErrorReply("CLUSTERDOWN the Cluster does not serve all slots")
        raise failure
