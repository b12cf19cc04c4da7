"""The contenders. Each has its own server, because the Lua heap of a server also holds the garbage of earlier scripts."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from benchmarks.common.server import microseconds_per_call
from motia_redis import StateManager
from motia_redis._scripts import functions, loader
from motia_redis._store import codec, patch
from motia_redis._store.keyspace import Keyspace, Layout
from motia_redis._store.limits import Retention
from motia_redis._store.namespaces import ServerClock
from motia_redis._store.sessions import Session
from motia_redis._store.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

SCOPE, KEY = b"users", b"user:4711"
HISTORY = 100  # events that a stream keeps: the manager's default
SETTINGS = Settings(Retention(HISTORY), deadline=0)
BATCH_BYTES = 400_000  # maximum size of the replies of one pipeline
_LUA = Path(__file__).parent / "lua"

Operation = dict[str, Any]


class Server(Protocol):
    """A running server."""

    client: Any
    socket: str

    @property
    def version(self) -> str:
        """The server's version."""


class Contender:
    """A way of updating one value. `prepare` it with a value and an operation, then `measure`."""

    name = ""
    stream = b"{bench}:events"
    keys: tuple[bytes, ...] = (b"{bench}:state:users", b"{bench}:revision:users", stream)

    def __init__(self, server: Server, source: str | None = None) -> None:
        self.client = server.client
        sha = str(self.client.script_load(source or (_LUA / f"{self.name}.lua").read_text()))
        self.command: tuple[str, str] = ("EVALSHA", sha)
        self.text = b""
        self.operation: Operation = {}

    def prepare(self, text: bytes, operation: Operation) -> None:
        """Flush the server and store `text`. Later calls apply `operation`."""
        self.text, self.operation = text, operation
        self.client.flushall()
        self.reset()

    def reset(self) -> None:
        """Store the initial text again."""
        self.client.hset(self.keys[0], KEY, self.text)

    def call(self) -> tuple[Sequence[bytes], Sequence[bytes]]:
        """Return keys and arguments of one call."""
        raise NotImplementedError

    def run(self, calls: int) -> list[Any]:
        """Make sequential calls in small pipelines; return the replies of the last pipeline."""
        batch = max(1, min(32, BATCH_BYTES // len(self.text)))
        replies: list[Any] = []
        for start in range(0, calls, batch):
            pipeline = self.client.pipeline(transaction=False)
            for _ in range(min(batch, calls - start)):
                keys, arguments = self.call()
                pipeline.execute_command(*self.command, len(keys), *keys, *arguments)
            replies = pipeline.execute()
        return replies

    def warm_up(self) -> None:
        """Write more events than the history, so that ours trims its stream and memory is allocated before the measurement."""
        self.run(HISTORY + 64)
        self.trim()

    def measure(self, calls: int) -> float:
        """Restore the initial text, make calls, and return the server time per call in microseconds."""
        self.reset()
        self.client.config_resetstat()
        self.run(calls)
        spent = microseconds_per_call(self.client, self.command[0])
        self.trim()
        return spent

    def trim(self) -> None:
        """Trim the stream to the history of ours, outside of the measured time."""
        self.client.xtrim(self.stream, maxlen=HISTORY, approximate=False)

    def outcome(self) -> Any:
        """Return the value after one more call."""
        return codec.decode(self.run(1)[0][1], subject=self.name)


class Ours(Contender):
    """The mutations with the keys and arguments of `StateManager.update`, as a function if the server has functions.

    They trim their stream themselves.
    """

    name = "ours"

    def __init__(self, server: Server) -> None:
        script = loader.load("mutate")
        super().__init__(server, script.source)
        if _uses_functions(server) and script.function is not None:
            self.client.function_load(loader.library().text(functions.today()), replace=True)
            self.command = ("FCALL", script.function)
        self.manager = StateManager(
            f"unix://{server.socket}", namespace="bench", retention=SETTINGS.retention, deadline=SETTINGS.deadline
        )
        self.session = Session(
            cast("Any", None), Keyspace("bench", Layout()), cast("Any", None), ServerClock(b"0", 0.0), SETTINGS
        )
        self.change: list[bytes] = []
        self.limits: bytes | None = None  # what the manager chooses
        self.ttl = b""

    def prepare(self, text: bytes, operation: Operation) -> None:
        """Store the text as `set` would."""
        translated = patch.translate([operation], strict=False, limits=self.manager.limits, subject="benchmark")
        self.change = [b"update", b"%d" % self.manager.limits.value_bytes, *translated]
        super().prepare(text, operation)

    def reset(self) -> None:
        """Store the text by the script: as canonical JSON, with its event."""
        keys, arguments = self._mutation([b"set", self.text + codec.CANONICAL_MARK])
        self.client.execute_command(*self.command, len(keys), *keys, *arguments)

    def call(self) -> tuple[Sequence[bytes], Sequence[bytes]]:
        """Return what the manager sends."""
        return self._mutation(self.change)

    def _mutation(self, change: list[bytes]) -> tuple[Sequence[bytes], Sequence[bytes]]:
        mutations = self.manager._mutations
        return mutations._mutation(self.session, SCOPE, KEY, change, limits=self.limits, ttl=self.ttl).encode()

    def trim(self) -> None:
        """Do nothing: the script trims the stream."""

    def never_trim(self) -> None:
        """Let no call trim the stream: it costs what many calls cost."""
        self.limits = b""


class OurSet(Ours):
    """The same script with the keys and arguments of `StateManager.set`: a value takes the place of an equal one."""

    name = "our set"

    def call(self) -> tuple[Sequence[bytes], Sequence[bytes]]:
        """Return what the manager sends."""
        return self._mutation([b"set", self.text + codec.CANONICAL_MARK])


class TtlSet(OurSet):
    """The same with a time to live of an hour."""

    name = "set with ttl"

    def prepare(self, text: bytes, operation: Operation) -> None:
        """Do what others do, and give later calls a time to live."""
        self.ttl = b"3600000"
        super().prepare(text, operation)


class Cjson(Contender):
    """(a) Decode, change, encode."""

    name = "cjson"

    def call(self) -> tuple[Sequence[bytes], Sequence[bytes]]:
        """Return an increment."""
        path = self.operation["path"][1:].encode().split(b"/")
        return self.keys, [SCOPE, KEY, _request(), b"%d" % self.operation["value"], *path]


class Rejson(Contender):
    """(b) RedisJSON, in a script."""

    name = "rejson"

    def reset(self) -> None:
        """Store the document as the module does."""
        self.client.execute_command("JSON.SET", self.keys[0], ".", self.text)

    def call(self) -> tuple[Sequence[bytes], Sequence[bytes]]:
        """Return an increment."""
        segments = self.operation["path"][1:].split("/")
        path = "".join(f"[{segment}]" if segment.isdigit() else f".{segment}" for segment in segments)
        return self.keys, [SCOPE, KEY, _request(), b"%d" % self.operation["value"], path.encode()]


class Floor(Contender):
    """(c) Read, write and append an event without a change."""

    name = "floor"
    old_text = b""

    def call(self) -> tuple[Sequence[bytes], Sequence[bytes]]:
        """Return a call without a change."""
        return self.keys, [SCOPE, KEY, _request(), self.old_text]


class LeanFloor(Floor):
    """The floor with an event like ours: the new text and a few bytes of the old one."""

    name = "lean floor"
    old_text = b"1000000"

    def __init__(self, server: Server) -> None:
        super().__init__(server, (_LUA / "floor.lua").read_text())


class BareSet(Contender):
    """The calls of our `set` in a script that does nothing else."""

    name = "bare"

    def call(self) -> tuple[Sequence[bytes], Sequence[bytes]]:
        """Return a call that writes the initial text."""
        return (*self.keys, b"{bench}:request:" + _request()), [SCOPE, KEY, _request(), self.text]


ALL: tuple[type[Contender], ...] = (Ours, Cjson, Rejson, Floor, LeanFloor)


def _uses_functions(server: Server) -> bool:
    """Return whether a `StateManager` would call functions of this server."""
    version = tuple(map(int, server.version.split(".")[:2]))
    return version >= functions.OLDEST_SERVER and os.environ.get(functions.VARIABLE) != "never"


def _request() -> bytes:
    return secrets.token_hex(8).encode()
