"""Define the command `edit`."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from motia_redis._cli.arguments import key_argument, scope_argument, scope_of
from motia_redis._cli.formats import pretty, styled
from motia_redis._cli.namespace import place, run_on_namespace
from motia_redis._cli.options import EXIT_ERROR, EXIT_NEGATIVE, CommandError, connection_options, one_line_errors
from motia_redis._steps.faults import escaped

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from motia_redis._store.manager import StateManager
    from motia_redis._store.reading import Entry


@click.command()
@connection_options
@scope_argument
@key_argument
def edit(*, redis_url: str | None, namespace: str, scope: str, key: str) -> None:
    """Open a value in $VISUAL or $EDITOR, and store it when the editor ends.

    The time to live stays. The value is stored only if nobody has changed it meanwhile. Otherwise the difference is shown, and
    you can edit your text again. So you can if it is not JSON. Text that is not stored is kept in a file.

    \b
    Example:
      motia-redis edit users ann
      EDITOR="code --wait" motia-redis edit users ann
    """  # noqa: D301
    target = _Target(redis_url, namespace, scope, key)
    with one_line_errors():
        editor = _editor()
        entry = target.read()
        if entry is None:
            raise CommandError(f"{target} has no value; create it with motia-redis set", EXIT_NEGATIVE)
        with _Draft(f"{scope}-{key}", pretty(entry.value) + "\n") as draft:
            _edit_until_stored(target, entry, editor, draft)


class _Target(NamedTuple):
    """The value that is edited."""

    redis_url: str | None
    namespace: str
    scope: str
    key: str

    def __str__(self) -> str:
        return f"key {self.key!r} of scope {self.scope!r} in {place(self.redis_url, self.namespace)}"

    def read(self) -> Entry[str] | None:
        async def work(state: StateManager) -> Entry[str] | None:
            from motia_redis._store.json_texts import with_texts  # noqa: PLC0415 - slow

            return await with_texts(state).entry(scope_of(self.scope), self.key)

        return run_on_namespace(self.redis_url, self.namespace, work)

    def store(self, text: str, revision: str | None) -> bool:
        """Store a text, if the key has the revision. Return False if it has another one."""

        async def work(state: StateManager) -> bool:
            from motia_redis._store.expiry import KEEP  # noqa: PLC0415 - slow
            from motia_redis._store.json_texts import with_texts  # noqa: PLC0415
            from motia_redis.errors import RevisionConflict  # noqa: PLC0415

            try:
                await with_texts(state).set(scope_of(self.scope), self.key, text, ttl=KEEP, if_revision=revision)
            except RevisionConflict:
                return False
            return True

        return run_on_namespace(self.redis_url, self.namespace, work)


class _Draft:
    """Hold the text that is edited in a file of its own, in a `with` block.

    The file is removed at the end, unless it holds text that was not stored.
    """

    def __init__(self, name: str, text: str) -> None:
        self._given = text
        self._folder = Path(tempfile.mkdtemp(prefix="motia-redis-edit-"))  # only this user can read it
        self.path = self._folder / (re.sub(r"[^\w.-]+", "_", name)[:80] + ".json")
        self.path.write_text(text, encoding="utf-8")
        self.is_done = False

    def read(self) -> str:
        """Return the text. Raises CommandError."""
        try:
            return self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"the edited file cannot be read: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if not self.is_done and self._is_changed():
            click.echo(f"nothing was stored; your text is kept in {self.path}", err=True)
        else:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _is_changed(self) -> bool:
        try:
            return self.path.read_bytes() != self._given.encode()
        except OSError:  # the editor has removed it
            return False


def _edit_until_stored(target: _Target, entry: Entry[str], editor: list[str], draft: _Draft) -> None:
    """Let the user edit until the text is stored, equals the stored one, or the user gives up. Raises CommandError."""
    base: Entry[str] | None = entry
    while True:
        _run_editor(editor, draft.path)
        text = draft.read()
        problem = _problem(text)
        if problem is not None:
            _ask(problem, "the text cannot be stored", exit_code=EXIT_ERROR)
            continue
        if base is not None and pretty(text) == pretty(base.value):
            draft.is_done = True
            click.echo("no change: nothing was stored", err=True)
            return
        if target.store(text, base.revision if base is not None else None):
            draft.is_done = True
            click.echo(f"stored {escaped(str(target))}", err=True)
            return
        current = target.read()
        _show_difference(base, current)
        _ask("somebody else has changed the value meanwhile", "the value has changed meanwhile", exit_code=EXIT_NEGATIVE)
        base = current


def _show_difference(before: Entry[str] | None, after: Entry[str] | None) -> None:
    """Show what somebody else has changed."""
    one, other = ([] if entry is None else pretty(entry.value).splitlines() for entry in (before, after))
    name, new_name = (f"revision {entry.revision}" if entry is not None else "no value" for entry in (before, after))
    colours = {"+": "green", "-": "red"}
    for line in difflib.unified_diff(one, other, name, new_name, lineterm=""):
        click.echo(styled(escaped(line), colours.get(line[0], ""), error=True), err=True)
    if one == other:
        click.echo("(the value is the same, its revision or time to live is not)", err=True)


def _ask(told: str, reason: str, *, exit_code: int) -> None:
    """Ask whether to edit again. Raises CommandError if the answer is no, or if nobody can answer."""
    click.echo(escaped(told), err=True)
    try:
        agreed = sys.stdin is not None and sys.stdin.isatty() and click.confirm("Edit again?", default=True, err=True)
    except click.Abort:
        click.echo(err=True)
        agreed = False
    if not agreed:
        raise CommandError(f"nothing was stored: {reason}", exit_code)


def _problem(text: str) -> str | None:
    """Return why a text is not JSON that can be stored."""
    from motia_redis._store.json_texts import TEXTS  # noqa: PLC0415 - slow
    from motia_redis.errors import InvalidValue  # noqa: PLC0415

    try:
        TEXTS.encode(text, subject="", max_bytes=sys.maxsize)
    except InvalidValue as error:
        return str(error).removeprefix(": ")
    return None


def _editor() -> list[str]:
    """Return the user's editor and its arguments. Raises CommandError."""
    variable = next((name for name in ("VISUAL", "EDITOR") if os.environ.get(name, "").strip()), None)
    if variable is None:
        raise CommandError("no editor: set $VISUAL or $EDITOR, for example EDITOR=nano")
    try:
        words = shlex.split(os.environ[variable])
    except ValueError as error:
        raise CommandError(f"${variable} cannot be read: {error}") from None
    if shutil.which(words[0]) is None:
        raise CommandError(f"there is no program {words[0]!r}, which ${variable} names")
    return words


def _run_editor(editor: list[str], path: Path) -> None:
    """Run the editor. An interrupt is for the editor. Raises CommandError if it fails."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        code = subprocess.run([*editor, str(path)], check=False).returncode  # noqa: S603 - the user's own editor
    except OSError as error:
        raise CommandError(f"the editor {editor[0]!r} cannot be started: {error.strerror}") from None
    finally:
        signal.signal(signal.SIGINT, before)
    if code:
        raise CommandError(f"the editor {editor[0]!r} ended with exit code {code}")
