"""Define the command `watch`."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from motia_redis._cli.arguments import scope_of
from motia_redis._cli.completing import complete_keys, complete_scopes
from motia_redis._cli.formats import is_terminal, json_line, note, output_option, styled
from motia_redis._cli.namespace import place, run_on_namespace
from motia_redis._cli.options import CommandError, connection_options, one_line_errors
from motia_redis._steps.faults import escaped

if TYPE_CHECKING:
    from motia_redis._store.manager import StateManager
    from motia_redis._store.watch_items import Change, WatchItem

_COLOURS = {"created": "green", "updated": "yellow", "deleted": "red"}


@click.command()
@connection_options
@click.argument("scope", required=False, shell_complete=complete_scopes)
@click.argument("key", required=False, shell_complete=complete_keys)
@click.option("--prefix", metavar="TEXT", help="Only keys that begin with this text.")
@click.option(
    "--from",
    "start",
    metavar="PLACE",
    help="`now`, `snapshot` (first what is there) or the cursor of a line: what came after it.  [default: now]",
)
@click.option(
    "--cursor-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Keep the cursor of the last line in this file. If it exists, go on from there; --from holds the first time.",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="End after N changes.")
@click.option("--resync", is_flag=True, help="Take a new snapshot if changes since the cursor are gone. Else that is an error.")
@output_option("text", "jsonl")
def watch(
    *,
    redis_url: str | None,
    namespace: str,
    scope: str | None,
    key: str | None,
    prefix: str | None,
    start: str | None,
    cursor_file: Path | None,
    limit: int | None,
    resync: bool,
    output: str | None,
) -> None:
    """Print each change as one line: of a key, of a scope, or of all scopes. Ctrl-C ends it, with exit code 130.

    The changes of a key come in their order, each once, also through lost connections and restarts of Redis. After a restart of
    the command with --cursor-file the last line may come again, if the command was killed between the two.

    \b
    --output text   time, change, scope, key and value; the default at a terminal
    --output jsonl  an object with all of it and the cursor; the default elsewhere

    \b
    Example:
      motia-redis watch users
      motia-redis watch users ann --from snapshot
      motia-redis watch orders --cursor-file orders.cursor | python handle.py
    """  # noqa: D301
    chosen = output or ("text" if is_terminal() else "jsonl")
    with one_line_errors():
        first = _kept(cursor_file) or start or "now"
    on_gap: Literal["error", "resync"] = "resync" if resync else "error"

    async def work(state: StateManager) -> None:
        from motia_redis._store.json_texts import with_texts  # noqa: PLC0415 - slow

        of = None if scope is None else scope_of(scope)
        count = 0
        async with with_texts(state).watch(of, key, prefix, start=first, on_gap=on_gap) as items:
            note(f"watching {place(redis_url, namespace)}; Ctrl-C ends")
            async for item in items:
                count += _print_item(item, chosen)
                if cursor_file is not None:
                    _keep(cursor_file, item.cursor)
                if count == limit:
                    return

    run_on_namespace(redis_url, namespace, work)


def _print_item(item: WatchItem[str], output: str) -> int:
    """Print a change, or the end of a snapshot. Return the number of changes, 0 or 1."""
    from motia_redis._store.watch_items import Change, Synced  # noqa: PLC0415 - slow

    if isinstance(item, Change):
        click.echo(_line(item) if output == "text" else _object(item))
        return 1
    if isinstance(item, Synced):
        if output == "jsonl":
            click.echo(json_line({"type": "synced", "cursor": item.cursor}))
        else:
            note("that was the snapshot; changes follow")
    return 0


def _line(change: Change[str]) -> str:
    time = f"{datetime.fromtimestamp(change.timestamp / 1000, UTC):%H:%M:%S.%f}"[:-3] + "Z" if change.timestamp else "-"
    kind = change.type.removeprefix("state:")
    name = f"{escaped(change.scope)} {escaped(change.key)}"
    text, error = _value(change)
    reason = f"({change.reason})" if change.reason else ""
    return " ".join(
        part for part in (time, styled(f"{kind:<8}", _COLOURS.get(kind, "cyan")), name, reason, text or error) if part
    )


def _object(change: Change[str]) -> str:
    facts: dict[str, Any] = {"type": change.type, "scope": change.scope, "key": change.key, "revision": change.revision}
    text, error = _value(change)
    transaction = change.transaction
    facts |= {
        "timestamp": change.timestamp,
        "cursor": change.cursor,
        **({"reason": change.reason} if change.reason else {}),
        **({"expires_at": change.expires_at} if change.expires_at is not None else {}),
        **({"error": error} if error else {}),
    }
    return json_line(facts, value=text) if transaction is None else json_line(facts | {"transaction": transaction.id}, value=text)


def _value(change: Change[str]) -> tuple[str | None, str]:
    """Return the JSON text of the value, None for a deletion, and what is wrong with it."""
    from motia_redis.errors import CorruptValue  # noqa: PLC0415 - slow

    try:
        return change.value, ""
    except CorruptValue as error:
        return None, f"({escaped(str(error))})"


def _kept(file: Path | None) -> str | None:
    """Return the cursor that a file keeps; None if it does not exist."""
    if file is None:
        return None
    try:
        return file.read_text().strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"--cursor-file {file}: {error}") from None


def _keep(file: Path, cursor: str) -> None:
    """Replace the cursor in a file, in one step."""
    draft = file.with_name(f".{file.name}.new")
    try:
        draft.write_text(cursor + "\n")
        draft.replace(file)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise CommandError(f"--cursor-file {file}: {error.strerror}; the last cursor is {cursor}") from None
