"""Load the Lua scripts, assemble each from its parts, and call it: as a function (see functions.py), or by its hash.

An entry point `lua/<name>.lua` requires its parts by `require("lib.<part>")`. The loader inserts each part once, as a function
that creates it, in dependency order: at the top, or at a line `-- PARTS` if only what follows it requires the part. Redis creates
the functions of a script again in every call, so a call that returns above that line does not pay for those parts. A library of
functions makes its parts once.
"""

from __future__ import annotations

import re
from functools import cache, cached_property
from hashlib import sha1
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motia_redis._scripts.functions import Functions, Library
from motia_redis._transport.failures import ErrorReply, NoScript

if TYPE_CHECKING:
    from collections.abc import Sequence

    from motia_redis._transport.router import Node, Router

_PARTS = "-- PARTS\n"
_COMMENT = re.compile(r"^ *--.*\n", re.MULTILINE)  # a third of a script; no file has a comment or a text of several lines
_INDENTATION = re.compile(r"\n\s+")
_FLAGS = re.compile(r"^-- FLAGS +(.+)$", re.MULTILINE)  # of an entry point, as a function
_REQUIRE = re.compile(r'require\("lib\.(\w+)"\)')

#: The ways to call a script, in the order in which they are tried: the function, the function again after its library was loaded,
#: the script by its hash, by its hash again after it was loaded, and by its text, which the server keeps.
_FUNCTION, _LOADED, _HASH, _KNOWN, _TEXT = range(5)


class ScriptError(Exception):
    """A script cannot be assembled: a defect of this package, not of its use."""


class Script:
    """One script, callable on any connection: as a function where the servers have functions, else by its hash. Immutable.

    `name` is that of its function in the library; a script without a name is no function.
    """

    def __init__(self, source: str, name: str | None = None) -> None:
        self.source = source
        self.name = name
        self.sha = sha1(source.encode(), usedforsecurity=False).hexdigest()

    @cached_property
    def _commands(self) -> tuple[tuple[str, str], ...]:
        """Return the beginning of the command of each way: see `_FUNCTION`."""
        function = ("FCALL", self.function or "")
        by_hash = ("EVALSHA", self.sha)
        return function, function, by_hash, by_hash, ("EVAL", self.source)

    @cached_property
    def function(self) -> str | None:
        """The name of the function on the server."""
        return self.name and f"{library().name}_{self.name}"

    async def __call__(self, router: Router, keys: Sequence[bytes | str], arguments: Sequence[bytes | str]) -> Any:
        """Run the script atomically at the node of its keys and return its reply.

        A server that does not know the function or the script (new, flushed, failed over) runs nothing, and says so. The library
        or the script is then loaded, once for all calls that wait. So one call runs the script once.
        """
        way = self._first_way(router)
        while True:
            try:
                return await router.execute(keys[0], *self._commands[way], len(keys), *keys, *arguments)
            except ErrorReply as error:
                way = await self._next_way(router, way, error)

    async def call_with(
        self,
        router: Router,
        keys: Sequence[bytes | str],
        arguments: Sequence[bytes | str],
        following: Sequence[Sequence[Any]],
    ) -> list[Any]:
        """Run the script, then other commands over the same connection, which must change nothing; return all replies."""
        way = self._first_way(router)
        while True:
            try:
                return await router.pipeline(keys[0], [(*self._commands[way], len(keys), *keys, *arguments), *following])
            except ErrorReply as error:
                way = await self._next_way(router, way, error)

    async def call_at(
        self, router: Router, node: Node, keys: Sequence[bytes | str], arguments: Sequence[bytes | str | int]
    ) -> Any:
        """Run the script at a node, even if its keys have moved, and return its reply."""
        way = self._first_way(router)
        while True:
            try:
                return await router.execute_at(node, *self._commands[way], len(keys), *keys, *arguments)
            except ErrorReply as error:
                way = await self._next_way(router, way, error)

    async def call_many(self, router: Router, calls: Sequence[tuple[Sequence[bytes], Sequence[bytes | str]]]) -> list[Any]:
        """Run the script once per (keys, arguments), each atomically; return the replies.

        Calls for one node run in order, in one round trip. Raises the first error after all calls have run.
        """
        way = self._first_way(router)
        commands = [(keys[0], (*self._commands[way], len(keys), *keys, *arguments)) for keys, arguments in calls]
        replies = await router.gather(commands, return_exceptions=True)
        for index, reply in enumerate(replies):
            if isinstance(reply, ErrorReply) and self._has_next_way(router, way, reply):
                replies[index] = await self(router, *calls[index])
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def _first_way(self, router: Router) -> int:
        functions = router.functions
        if functions is None:
            functions = router.functions = Functions(router, library())
        return _FUNCTION if functions.usable and self.name is not None else _HASH

    def _has_next_way(self, router: Router, way: int, error: ErrorReply) -> bool:
        """Return whether an error says that the script did not run because of the way in which it was called."""
        return isinstance(error, NoScript) or (way < _HASH and router.functions.refuse(error))

    async def _next_way(self, router: Router, way: int, error: ErrorReply) -> int:
        """Return the way to call the script after an error that is due to `way`. Raise any other error."""
        if way == _TEXT or not self._has_next_way(router, way, error):
            raise error
        if isinstance(error, NoScript):
            if way == _FUNCTION and await router.functions.load(error.node):
                return _LOADED
            if way == _LOADED:
                router.functions.pause("the library was loaded, and is not there")
            if way == _HASH and await router.functions.load_script(error.node, self.source):
                return _KNOWN
        return _HASH if way < _HASH else _TEXT


def assemble(name: str, directory: Path) -> str:
    """Return the text of `<name>.lua` as a script, with its parts in place. Raises ScriptError for a missing part or a cycle."""
    parts: dict[str, str] = {}
    before, _, after = _read(directory / f"{name}.lua").rpartition(_PARTS)
    _collect(before, (name,), directory, parts)
    early = len(parts)
    _collect(after, (name,), directory, parts)
    made = [f"local function lib_{part}()\n{text}end\n" for part, text in parts.items()]
    return _REQUIRE.sub(r"lib_\1()", "".join((*made[:early], before, *made[early:], after)))


def assemble_library(directory: Path) -> str:
    """Return the text of all entry points as the functions of one library, which makes their parts once.

    It lacks the first lines: `#!lua name=...`, and the locals LIBRARY and ABOUT, its name and the description of its functions.
    """
    parts: dict[str, str] = {}
    functions = []
    for path in sorted(directory.glob("*.lua")):
        text = _read(path)
        flags = ", ".join(f'"{flag}"' for line in _FLAGS.findall(text) for flag in line.split())
        _collect(text, (path.stem,), directory, parts)
        functions.append(
            f'redis.register_function{{function_name = LIBRARY .. "_{path.stem}", description = ABOUT, flags = {{{flags}}},\n'
            f"callback = function(KEYS, ARGV)\nif not made then make() end\n{text}end}}\n"
        )
    # The first call makes them: while a library is loaded, it has no access to the functions of Lua, such as those of `string`.
    making = "".join(f"lib_{part} = (function()\n{text}end)()\n" for part, text in parts.items())
    names = ", ".join(f"lib_{part}" for part in parts)
    text = f"local {names}\nlocal made\nlocal function make()\n{making}made = true\nend\n{''.join(functions)}"
    return _INDENTATION.sub("\n", _COMMENT.sub("", _REQUIRE.sub(r"lib_\1", text)))


def _collect(text: str, chain: tuple[str, ...], directory: Path, parts: dict[str, str]) -> None:
    """Add the parts that a text requires, directly or not, to `parts`: each one behind those that it requires itself."""
    for part in _REQUIRE.findall(text):
        if part in chain:
            raise ScriptError(f"{' -> '.join((*chain, part))}: lua/lib parts require each other in a cycle")
        if part not in parts:
            body = _read(directory / "lib" / f"{part}.lua")
            _collect(body, (*chain, part), directory, parts)
            parts[part] = body


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise ScriptError(f"cannot read {path}: {error.strerror}") from error


def directory() -> Path:
    """Return the directory of the Lua files: inside the installed package, or beside it in the repository."""
    package = Path(__file__).parent.parent
    inside = package / "lua"
    return inside if inside.is_dir() else package.parent / "lua"


@cache
def load(name: str) -> Script:
    """Return the script `name`, without the lines that are comments; its files are read once per process."""
    return Script(_COMMENT.sub("", assemble(name, directory())), name)


@cache
def library() -> Library:
    """Return the library of all entry points; its files are read once per process."""
    body = assemble_library(directory())
    return Library(f"motia_{sha1(body.encode(), usedforsecurity=False).hexdigest()[:16]}", body)
