"""The commands `export` and `import`."""

from __future__ import annotations

import os
import signal
import sys
from typing import IO, TYPE_CHECKING

import click

from motia_redis._cli.arguments import create_option
from motia_redis._cli.completing import complete_scopes
from motia_redis._cli.namespace import json_option, place, run_on_namespace
from motia_redis._cli.options import EXIT_ERROR, EXIT_NEGATIVE, connection_options
from motia_redis._cli.output import counted, print_json
from motia_redis._cli.progress import Progress
from motia_redis._steps.faults import escaped

if TYPE_CHECKING:
    from motia_redis._admin.exporting import Exported
    from motia_redis._admin.importing import Imported, RefusedLine
    from motia_redis._store.manager import StateManager


@click.command("export")
@connection_options
@click.argument("scopes", nargs=-1, metavar="[SCOPE]...", shell_complete=complete_scopes)
def export(*, redis_url: str | None, namespace: str, scopes: tuple[str, ...]) -> None:
    """Write the values of the SCOPEs, or of all scopes, to standard output, while the application goes on.

    Each line is a JSON object with scope, key, expires_at and value. The last line has a cursor: a watch that starts with it
    yields all changes since the export began. The exit code is 1 if values were left out, because their names are not UTF-8.

    \b
    Example:
      motia-redis export > all.jsonl
      motia-redis export users carts | gzip > some.jsonl.gz
    """  # noqa: D301
    progress = Progress("exporting", "values")

    async def work(state: StateManager) -> Exported:
        from motia_redis._admin.exporting import export_values  # noqa: PLC0415 - slow

        def show(done: int, total: int) -> None:
            progress.show(done, total, done)

        shown = show if progress.is_shown else None
        return await export_values(state, _write, scopes=list(scopes) or None, progress=shown)

    try:
        done = run_on_namespace(redis_url, namespace, work)
    finally:
        progress.close()
    click.echo(f"exported {counted(done.values, 'value')} of {place(redis_url, namespace)}", err=True)
    if done.unnamed:
        click.echo(f"left out {counted(done.unnamed, 'value')}: another client gave them names that are not UTF-8", err=True)
        sys.exit(EXIT_NEGATIVE)


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


@click.command("import")
@connection_options
@click.argument("file", type=click.File("rb"), default="-", metavar="[FILE]")
@click.option("--if-absent", "keeps", is_flag=True, help="Leave keys alone that have another value.")
@click.option("--overwrite", "overwrites", is_flag=True, help="Store the values of the file in place of others.")
@click.option("--dry-run", is_flag=True, help="Check all lines, say what would be stored, and change nothing.")
@click.option("--fire", is_flag=True, help="Let state and stream triggers fire. By default they skip imported changes.")
@click.option(
    "--from-line",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Begin with line N: the lines before it were imported.",
)
@create_option
@json_option
def import_(
    *,
    redis_url: str | None,
    namespace: str,
    file: IO[bytes],
    keeps: bool,
    overwrites: bool,
    dry_run: bool,
    fire: bool,
    from_line: int,
    creates: bool,
    as_json: bool,
) -> None:
    """Store the values of FILE, which `export` wrote, or of standard input.

    Each value is stored in one atomic step with an event whose reason is `import`. What is there already is skipped, so the same
    command again goes on where it was interrupted. Lines that cannot be imported are named on standard error; the others are
    stored. The exit code is 1 if there were such lines, or if the file was cut.

    \b
    Example:
      motia-redis import all.jsonl --dry-run
      motia-redis import all.jsonl --if-absent --create
      zcat some.jsonl.gz | motia-redis import --overwrite
    """  # noqa: D301
    if keeps and overwrites:
        raise click.UsageError("Give either --if-absent or --overwrite.")
    if not (keeps or overwrites or dry_run):
        raise click.UsageError("Give --if-absent, --overwrite or --dry-run.")
    progress, size, last = Progress("importing", "lines"), _size_of(file), 0

    def show(line: int, done: int) -> None:
        nonlocal last
        last = line
        if size:
            progress.show(done, size, line)

    def refuse(line: RefusedLine) -> None:
        click.echo(escaped(f"line {line.line}: {line.reason}"), err=True)

    async def work(state: StateManager) -> Imported:
        from motia_redis._admin.importing import import_values  # noqa: PLC0415 - slow

        return await import_values(
            state,
            file,
            existing="overwrite" if overwrites else "keep",
            dry_run=dry_run,
            fire=fire,
            first_line=from_line,
            refused=refuse,
            progress=show,
        )

    try:
        done = run_on_namespace(redis_url, namespace, work, creates=creates)
    except SystemExit as end:
        if end.code in (EXIT_ERROR, 128 + signal.SIGINT) and last and not dry_run:
            click.echo(f"the lines up to {last} are imported; go on with --from-line {last + 1}", err=True)
        raise
    finally:
        progress.close()
    _report(done, place(redis_url, namespace), dry_run=dry_run, as_json=as_json)


def _report(done: Imported, where: str, *, dry_run: bool, as_json: bool) -> None:
    stored = done.created + done.overwritten
    if as_json:
        names = ("created", "overwritten", "same", "kept", "expired", "refused", "problem", "cursor")
        print_json({"dry_run": dry_run, **{name: getattr(done, name) for name in names}})
    else:
        click.echo(f"{'would import' if dry_run else 'imported'} {counted(stored, 'value')} into {where}")
        facts = {
            "new keys": done.created,
            "other values replaced": done.overwritten,
            "left out: the same value is there": done.same,
            "left out: another value is there": done.kept,
            "left out: expired": done.expired,
            "refused lines": done.refused,
        }
        for label, number in facts.items():
            if number:
                click.echo(f"  {number:>10,}  {label}")
    if done.problem:
        click.echo(f"the file is not complete: {done.problem}", err=True)
    if done.problem or done.refused:
        sys.exit(EXIT_NEGATIVE)


def _size_of(file: IO[bytes]) -> int:
    """Return the bytes of a file; 0 for a pipe."""
    try:
        return os.fstat(file.fileno()).st_size
    except OSError:
        return 0
