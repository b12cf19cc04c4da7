"""The command `copy`."""

from __future__ import annotations

import re
import signal
import sys
from typing import TYPE_CHECKING, Literal

import click

from motia_redis._cli.namespace import json_option, place, redacted, run_on_namespace
from motia_redis._cli.options import EXIT_NEGATIVE, connection_options
from motia_redis._cli.output import print_json, table
from motia_redis._cli.progress import Progress
from motia_redis._steps.faults import escaped
from motia_redis.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from motia_redis._admin.comparing import Compared
    from motia_redis._admin.copying import CopyProgress, FinishedCopy
    from motia_redis._store.keyspace import Layout
    from motia_redis._store.manager import StateManager

_LABELS = {"values": "copying", "comparing": "comparing"}
Mode = Literal["follow", "once", "finish", "compare"]


class _Bars:
    """Show a bar for each phase, and while changes are followed how far the copy is behind, at a terminal."""

    def __init__(self) -> None:
        self._phase = ""
        self._bar = Progress("", "")
        self.is_shown = self._bar.is_shown

    def show(self, progress: CopyProgress) -> None:
        """Show how far the copy has come."""
        if progress.phase == "changes":
            self.close()
            click.echo(f"\rfollowing, {progress.total:,} events behind\x1b[K", nl=False, err=True)
            self._phase = progress.phase
            return
        if progress.phase != self._phase:
            self.close()
            self._phase, self._bar = progress.phase, Progress(_LABELS[progress.phase], "values")
        self._bar.show(progress.done, progress.total, progress.done)

    def close(self) -> None:
        """End the line."""
        if self._phase == "changes":
            click.echo("\r\x1b[K", nl=False, err=True)
        self._bar.close()
        self._phase = ""


def _parse_layout(ctx: click.Context, option: click.Parameter, value: str | None) -> Layout | None:
    """Return the layout of `PARTITIONSxLANES`."""
    if value is None:
        return None
    from motia_redis._store.keyspace import Layout  # noqa: PLC0415 - slow to import: `--help` must answer at once

    found = re.fullmatch(r"(\d{1,5})x(\d{1,4})", value)
    if found is None:
        raise click.BadParameter(f"{value!r} is not PARTITIONSxLANES, such as 64x4", ctx, option)
    try:
        return Layout(int(found[1]), int(found[2]))
    except StateError as error:
        raise click.BadParameter(str(error), ctx, option) from None


@click.command("copy")
@connection_options
@click.option("--to", "to_url", metavar="URL", help="The Redis of the copy. Default: the same one.")
@click.option("--to-namespace", metavar="NAME", help="The namespace of the copy. Default: the same name.")
@click.option(
    "--to-layout",
    metavar="PxL",
    callback=_parse_layout,
    help="The layout of the copy: partitions and lanes of each, such as 64x4. Default: the same one.",
)
@click.option("--once", is_flag=True, help="End when the copy has what the source has, and do not follow changes.")
@click.option("--finish", is_flag=True, help="Writers and workers have ended: copy what is left, compare, open the copy.")
@click.option("--compare", is_flag=True, help="Only compare the values of both sides.")
@click.option("--again", is_flag=True, help="Copy all values again, and delete what the source does not have.")
@json_option
def copy(
    *,
    redis_url: str | None,
    namespace: str,
    to_url: str | None,
    to_namespace: str | None,
    to_layout: Layout | None,
    once: bool,
    finish: bool,
    compare: bool,
    again: bool,
    as_json: bool,
) -> None:
    """Copy the namespace to another Redis, namespace or layout, while the application goes on.

    Without an option it follows changes until it is interrupted, and says what to do when both sides are equal. The same command
    goes on where it was interrupted. The source is not changed. No process can use the copy before --finish, which copies
    messages, delayed messages, schedules and dead letters, too, and compares counts and checksums. The exit code is 1 if the copy
    is not finished, something differs, or the source has changed since.

    \b
    Example:
      motia-redis copy --to-namespace motia2 --to-layout 64x4
      motia-redis copy --to-namespace motia2 --finish
      motia-redis copy --to redis://other:6379/0 --once
    """  # noqa: D301
    if once + finish + compare > 1:
        raise click.UsageError("Give one of --once, --finish and --compare.")
    mode: Mode = "once" if once else "finish" if finish else "compare" if compare else "follow"
    url, name = redis_url if to_url is None else to_url, to_namespace or namespace
    if (redacted(url), name) == (redacted(redis_url), namespace):
        raise click.UsageError("The copy would be the source itself: give --to or --to-namespace.")
    places = place(redis_url, namespace), place(url, name)
    bars = _Bars()
    show = bars.show if bars.is_shown else None

    async def work(source: StateManager) -> FinishedCopy | Compared | None:
        from motia_redis._admin import copying  # noqa: PLC0415 - slow
        from motia_redis._store.manager import StateManager  # noqa: PLC0415

        def say_how_to_switch() -> None:
            bars.close()
            for line in _instructions(redis_url, namespace, places):
                click.echo(line)

        target = StateManager(url, namespace=name, layout=to_layout)
        try:
            if mode == "compare":
                return await copying.compare_copy(source, target, progress=show)
            if mode == "finish":
                return await copying.finish_copy(source, target, again=again, progress=show)
            follows = mode == "follow"
            said = say_how_to_switch if follows else None
            await copying.copy_changes(source, target, follow=follows, again=again, progress=show, equal=said)
            return None
        finally:
            await target.close()

    try:
        done = run_on_namespace(redis_url, namespace, work)
    except SystemExit as end:
        bars.close()
        if end.code == 128 + signal.SIGINT and mode != "compare":
            click.echo("interrupted; the same command goes on from here, with --finish to the end", err=True)
        raise
    finally:
        bars.close()
    if done is None:
        click.echo(f"{places[1]} has what {places[0]} had; go on with --finish once writers and workers have ended")
    else:
        _report(done, places, as_json=as_json)


def _instructions(redis_url: str | None, namespace: str, places: tuple[str, str]) -> list[str]:
    return [
        f"{places[1]} has what {places[0]} has, and follows its changes. To switch:",
        f"  1. stop the writers of {places[0]}; let its workers run",
        f"  2. wait for no lag:  motia-redis status --redis '{redacted(redis_url)}' --namespace {namespace}",
        "  3. stop its workers",
        "  4. interrupt this command, and run it again with --finish",
        f"  5. start workers, and then writers, on {places[1]}",
    ]


def _report(done: FinishedCopy | Compared, places: tuple[str, str], *, as_json: bool) -> None:
    from motia_redis._admin.comparing import Compared  # noqa: PLC0415 - slow

    if isinstance(done, Compared):
        compared, problems, is_finished = [done], done.differences, None
    else:
        compared, problems, is_finished = done.compared, [*done.obstacles, *done.differences, *done.late], done.is_finished
    if as_json:
        facts = {"finished": is_finished, "problems": problems, "compared": [_facts(part) for part in compared]}
        print_json({name: value for name, value in facts.items() if value is not None})
    else:
        _print(compared, is_finished=is_finished, is_late=bool(problems), places=places)
        for problem in problems:
            click.echo(escaped(f"  {problem}"), err=True)
    if problems:
        sys.exit(EXIT_NEGATIVE)


def _facts(part: Compared) -> dict[str, object]:
    names = ("kind", "source", "target", "source_checksum", "target_checksum", "differences")
    return {name: getattr(part, name) for name in names}


def _print(compared: Sequence[Compared], *, is_finished: bool | None, is_late: bool, places: tuple[str, str]) -> None:
    if compared:
        rows = [
            (part.kind, f"{part.source:,}", f"{part.target:,}", part.source_checksum, part.target_checksum) for part in compared
        ]
        table(("KIND", "SOURCE", "COPY", "CHECKSUM", "OF THE COPY"), rows, right=("SOURCE", "COPY"))
    source, target = places
    if is_finished is None:
        click.echo("the values differ:" if is_late else "the values are equal", err=is_late)
    elif not is_finished:
        click.echo(f"{target} is not finished:", err=True)
    elif is_late:
        click.echo(f"{target} was finished, and {source} has changed since:", err=True)
    elif compared:
        click.echo(f"{target} is finished: start its workers, and then writers")
    else:
        click.echo(f"{target} is finished, and {source} has not changed since")
