"""Load the Lua scripts, assemble each from its parts, and call it by its hash.

An entry point `lua/<name>.lua` requires its parts by `require("lib.<part>")`. The loader inserts each part once, as a function
that creates it, in dependency order: at the top, or at a line `-- PARTS` if only what follows it requires the part. Redis creates
the functions of a script again in every call, so a call that returns above that line does not pay for those parts.
"""

from __future__ import annotations

import re
from functools import cache
from hashlib import sha1
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motia_redis._transport.failures import NoScript

if TYPE_CHECKING:
    from collections.abc import Sequence

    from motia_redis._transport.router import Node, Router

_PARTS = "-- PARTS\n"
_COMMENT = re.compile(r"^ *--.*\n", re.MULTILINE)  # a third of a script; no file has a comment or a text of several lines
_REQUIRE = re.compile(r'require\("lib\.(\w+)"\)')


class ScriptError(Exception):
    """A script cannot be assembled: a defect of this package, not of its use."""


class Script:
    """One script, callable on any connection. Immutable."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = sha1(source.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, router: Router, keys: Sequence[bytes | str], arguments: Sequence[bytes | str]) -> Any:
        """Run the script atomically at the node of its keys and return its reply.

        A server that does not know the script (new, flushed, failed over) answers NOSCRIPT and runs nothing. The script is then
        sent as a whole. So one call runs the script once.
        """
        try:
            return await router.execute(keys[0], "EVALSHA", self.sha, len(keys), *keys, *arguments)
        except NoScript:
            return await router.execute(keys[0], "EVAL", self.source, len(keys), *keys, *arguments)

    async def call_with(
        self,
        router: Router,
        keys: Sequence[bytes | str],
        arguments: Sequence[bytes | str],
        following: Sequence[Sequence[Any]],
    ) -> list[Any]:
        """Run the script, then other commands over the same connection, which must change nothing; return all replies."""
        try:
            return await router.pipeline(keys[0], [("EVALSHA", self.sha, len(keys), *keys, *arguments), *following])
        except NoScript:
            return await router.pipeline(keys[0], [("EVAL", self.source, len(keys), *keys, *arguments), *following])

    async def call_at(
        self, router: Router, node: Node, keys: Sequence[bytes | str], arguments: Sequence[bytes | str | int]
    ) -> Any:
        """Run the script at a node, even if its keys have moved, and return its reply."""
        try:
            return await router.execute_at(node, "EVALSHA", self.sha, len(keys), *keys, *arguments)
        except NoScript:
            return await router.execute_at(node, "EVAL", self.source, len(keys), *keys, *arguments)

    async def call_many(self, router: Router, calls: Sequence[tuple[Sequence[bytes], Sequence[bytes | str]]]) -> list[Any]:
        """Run the script once per (keys, arguments), each atomically; return the replies.

        Calls for one node run in order, in one round trip. Raises the first error after all calls have run.
        """
        commands = [(keys[0], ("EVALSHA", self.sha, len(keys), *keys, *arguments)) for keys, arguments in calls]
        replies = await router.gather(commands, return_exceptions=True)
        for index, reply in enumerate(replies):
            if isinstance(reply, NoScript):
                replies[index] = await self(router, *calls[index])
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies


def assemble(name: str, directory: Path) -> str:
    """Return the text of `<name>.lua` with its parts in place. Raises ScriptError for a missing part or a cycle."""
    parts: dict[str, str] = {}

    def add(text: str, chain: tuple[str, ...]) -> str:
        for part in _REQUIRE.findall(text):
            if part in chain:
                raise ScriptError(f"{' -> '.join((*chain, part))}: lua/lib parts require each other in a cycle")
            if part not in parts:
                body = add(_read(directory / "lib" / f"{part}.lua"), (*chain, part))
                parts[part] = f"local function lib_{part}()\n{body}end\n"
        return _REQUIRE.sub(r"lib_\1()", text)

    before, _, after = _read(directory / f"{name}.lua").rpartition(_PARTS)
    before = add(before, (name,))
    early = len(parts)
    after = add(after, (name,))
    texts = list(parts.values())
    return "".join((*texts[:early], before, *texts[early:], after))


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
    return Script(_COMMENT.sub("", assemble(name, directory())))
