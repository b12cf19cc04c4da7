"""Define the conditions of the commands `dead`, and move what they mean."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from motia_redis._cli.namespace import place, run_on_namespace
from motia_redis._cli.options import CommandError, one_line_errors, stack
from motia_redis._cli.output import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from motia_redis._admin.letter_filters import LetterFilter
    from motia_redis._admin.letter_moves import Reason
    from motia_redis._admin.letter_sweeps import Action, Sweep
    from motia_redis._store.manager import StateManager


def _parse_time(ctx: click.Context, option: click.Parameter, value: str | None) -> datetime | None:
    """Return the time that a person wrote: how long ago, or a date."""
    from motia_redis._store.times import parse_duration  # noqa: PLC0415 - slow

    if value is None:
        return None
    try:
        return datetime.fromtimestamp(time.time() - parse_duration(value), UTC)
    except (ValueError, OverflowError, OSError):
        pass
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(
            f"{value!r:.80} is neither a duration such as 30m, 2h or 7d, nor a time such as 2026-11-27T08:00:00Z", ctx, option
        ) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


filter_options = stack(
    click.option("--error", metavar="NAME", help="Of this type of error, or 'TYPE: first line' with # for ids and numbers."),
    click.option("--scope", metavar="NAME", help="Events of this scope."),
    click.option("--topic", metavar="NAME", help="Messages of this topic."),
    click.option("--key-prefix", metavar="TEXT", help="Keys that begin with this."),
    click.option("--after", metavar="TIME", callback=_parse_time, help="Died since a time: 2h (ago) or 2026-11-27T08:00Z."),
    click.option("--before", metavar="TIME", callback=_parse_time, help="Died before a time."),
)
sweep_options = stack(
    click.option("--dry-run", is_flag=True, help="Say how many would move, and why others would not. Change nothing."),
    click.option("--rate", type=click.FloatRange(0, 1_000_000, min_open=True), metavar="N", help="At most N letters a second."),
)


@dataclass(frozen=True)
class Chosen:
    """The conditions of a call, as the options give them."""

    step: str | None
    error: str | None = None
    scope: str | None = None
    topic: str | None = None
    key_prefix: str | None = None
    after: datetime | None = None
    before: datetime | None = None
    dry_run: bool = False
    rate: float | None = None

    @property
    def has_conditions(self) -> bool:
        """Whether not all letters of a step, or of all steps, are meant."""
        return any(each is not None for each in (self.error, self.scope, self.topic, self.key_prefix, self.after, self.before))

    def filter(self) -> LetterFilter:
        """Return the filter of the conditions."""
        from motia_redis._admin.letter_filters import LetterFilter  # noqa: PLC0415 - slow

        return LetterFilter(
            step=self.step,
            error=self.error,
            scope=self.scope,
            topic=self.topic,
            key_prefix=self.key_prefix,
            after=self.after,
            before=self.before,
        )


def sweep(redis_url: str | None, namespace: str, chosen: Chosen, action: Action, *, order: str = "") -> None:
    """Move the letters that are meant, and print how many have moved. End with exit code 2 if some stayed.

    `order` is printed about letters that have moved.
    """
    from motia_redis.errors import StateUnavailable  # noqa: PLC0415 - slow

    async def work(state: StateManager) -> Sweep:
        from motia_redis._admin.letter_sweeps import Sweep  # noqa: PLC0415

        made = Sweep(state, chosen.filter(), action, rate=chosen.rate)
        try:
            await _with_progress(made, dry_run=chosen.dry_run)
        except StateUnavailable as error:
            lost = f"; {counted(made.unknown, 'more')} may have moved" if made.unknown else ""
            raise StateUnavailable(f"{error}; {counted(made.moved, 'dead letter')} had moved{lost}") from error
        return made

    done = run_on_namespace(redis_url, namespace, work)
    verb, where = {"retry": "retried", "drop": "dropped"}[action], place(redis_url, namespace)
    if chosen.dry_run:
        click.echo(f"{counted(done.expected or 0, 'dead letter')} would be {verb} in {where}; nothing was changed")
        _print_reasons(done.expected_refused, f"would not be {verb}")
        return
    each = "it" if done.moved == 1 else "each"
    click.echo(f"{verb} {counted(done.moved, 'dead letter')} in {where}" + (f"; {each} {order}" if order and done.moved else ""))
    if done.refused:
        _print_reasons(done.refused, f"not {verb}")
        with one_line_errors():
            raise CommandError(f"{counted(done.refused.total(), 'dead letter')} {_was(done.refused.total())} not {verb}")


def _was(number: int) -> str:
    return "was" if number == 1 else "were"


def _print_reasons(refused: Mapping[Reason, int], what: str) -> None:
    from motia_redis._admin.letter_moves import why  # noqa: PLC0415 - slow

    for reason, number in refused.items():
        click.echo(f"{number} {what}: {why(reason)}", err=True)


async def _with_progress(made: Sweep, *, dry_run: bool) -> None:
    """Count or move; at a terminal, show how many letters were looked at."""
    import asyncio  # noqa: PLC0415 - slow

    task = asyncio.ensure_future(made.count() if dry_run else made.run())
    if not sys.stderr.isatty():
        await task
        return
    try:
        while not made.existing and not task.done():
            await asyncio.wait([task], timeout=0.1)
        with click.progressbar(length=made.existing, label="looked at", show_pos=True, file=sys.stderr) as bar:
            while not task.done():
                await asyncio.wait([task], timeout=0.2)
                bar.update(made.looked - bar.pos, None)
            bar.update(made.looked - bar.pos, None)
    finally:
        made.stop()
        await task
