"""The Lua scripts: found, put together from their parts, and called by their hash.

An entry point `lua/<name>.lua` takes its parts by `require("lib.<part>")`. The loader puts each part once, as a function that
makes it, in the order of need: in front, or where a line `-- PARTS` stands. Redis makes a script's functions anew at every call,
so a call that returns above that line pays for none of them.
"""

from __future__ import annotations

import re
from functools import cache
from hashlib import sha1
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from motia_redis._transport.router import Router

_PARTS = "-- PARTS\n"
_REQUIRE = re.compile(r'require\("lib\.(\w+)"\)')


class ScriptError(Exception):
    """A script that cannot be put together; a defect of this package, not of its use."""


class Script:
    """One script, callable on any connection. Immutable."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = sha1(source.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, router: Router, keys: Sequence[bytes | str], arguments: Sequence[bytes | str]) -> Any:
        """Run the script atomically at the node of its keys and return its reply.

        A server that does not know it (new, flushed, failed over) answers NOSCRIPT without running anything; the script is then
        sent whole, so one call runs it once.
        """
        return (await self.then(router, keys, arguments, ()))[0]

    async def then(
        self,
        router: Router,
        keys: Sequence[bytes | str],
        arguments: Sequence[bytes | str],
        following: Sequence[Sequence[Any]],
    ) -> list[Any]:
        """Run the script and then, over the same connection, other commands, which change nothing; return all replies."""
        rest = (len(keys), *keys, *arguments)
        try:
            return await router.pipeline(keys[0], [("EVALSHA", self.sha, *rest), *following])
        except NoScriptError:
            return await router.pipeline(keys[0], [("EVAL", self.source, *rest), *following])

    async def many(self, router: Router, calls: Sequence[tuple[Sequence[bytes], Sequence[bytes]]]) -> list[Any]:
        """Run the script once per (keys, arguments), each atomically; return the replies.

        Calls for one node go in order and in one round trip. Raises the first error after all calls have run.
        """
        commands = [(keys[0], ("EVALSHA", self.sha, len(keys), *keys, *arguments)) for keys, arguments in calls]
        replies = await router.gather(commands, return_exceptions=True)
        for index, reply in enumerate(replies):
            if isinstance(reply, NoScriptError):
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
                raise ScriptError(f"{' -> '.join((*chain, part))}: lua/lib parts require each other in a circle")
            if part not in parts:
                body = add(_read(directory / "lib" / f"{part}.lua"), (*chain, part))
                parts[part] = f"local function lib_{part}()\n{body}end\n"
        return _REQUIRE.sub(r"lib_\1()", text)

    body = add(_read(directory / f"{name}.lua"), (name,))
    before, _, after = body.rpartition(_PARTS)
    return before + "".join(parts.values()) + after


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise ScriptError(f"cannot read {path}: {error.strerror}") from error


def directory() -> Path:
    """Return where the Lua files are: inside of the installed package, or beside it in the repository."""
    package = Path(__file__).parent.parent
    inside = package / "lua"
    return inside if inside.is_dir() else package.parent / "lua"


@cache
def load(name: str) -> Script:
    """Return the script `name`, read once for the process."""
    return Script(assemble(name, directory()))
