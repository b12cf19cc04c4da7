"""The commands `dead list`, `dead show`, `dead retry` and `dead drop`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from motia_redis._cli.dead_sweeps import Chosen, filter_options, sweep, sweep_options
from motia_redis._cli.namespace import json_option, place, run_on_namespace
from motia_redis._cli.options import CommandError, confirm, connection_options, one_line_errors, stack
from motia_redis._cli.output import counted, plain, print_json, printable, table

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from motia_redis._admin.dead_letters import DeadLetters
    from motia_redis._admin.letters import DeadLetter
    from motia_redis._store.manager import StateManager

_T = TypeVar("_T")
_ERROR_WIDTH = 60  # characters of an error in a list
_ORDER = "runs again after the newer events of its key, with its original revision"

_step = click.option("--step", metavar="NAME", required=True, help="The step that gave up.")
_some = stack(
    click.argument("ids", nargs=-1, metavar="[ID]..."),
    click.option("--step", metavar="NAME", help="The step that gave up; required with IDs."),
    click.option("--all", "every", is_flag=True, help="All dead letters that exist now, of the step or of all steps."),
    filter_options,
    sweep_options,
)


@click.group()
def dead() -> None:
    """List, retry and drop dead letters.

    A dead letter is an event or a message that a step gave up on after `max_attempts`.

    \b
    Example:
      motia-redis dead list --redis redis://localhost:6379/0
      motia-redis dead retry --step Welcome --all
    """  # noqa: D301


@dead.command("list")
@connection_options
@click.option("--step", metavar="NAME", help="Only dead letters of this step.")
@filter_options
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, metavar="N", help="At most N, the oldest.")
@json_option
def list_(*, redis_url: str | None, namespace: str, step: str | None, limit: int, as_json: bool, **conditions: Any) -> None:
    """List dead letters, the oldest first.

    \b
    Example:
      motia-redis dead list --step Welcome --limit 20
      motia-redis dead list --error ConnectionError --after 2h
      motia-redis dead list --json
    """  # noqa: D301
    from motia_redis._admin.dead_letters import DeadLetters  # noqa: PLC0415 - slow
    from motia_redis._admin.letter_filters import oldest_letters  # noqa: PLC0415

    where = Chosen(step, **conditions).filter()

    async def work(state: StateManager) -> tuple[list[DeadLetter], int | None]:
        found = await oldest_letters(state, where, limit=limit + 1)
        return found, await DeadLetters(state).count(step) if where.is_open else None

    letters, count = run_on_namespace(redis_url, namespace, work)
    has_more = len(letters) > limit
    letters = letters[:limit]
    if as_json:
        print_json([_facts(letter) for letter in letters])
    elif letters:
        click.echo(f"{place(redis_url, namespace)}\n")
        table(
            ["ID", "STEP", "TIME", "EVENT", "OF", "ATTEMPTS", "ERROR"],
            [
                [
                    letter.id,
                    letter.step,
                    letter.time.strftime("%Y-%m-%d %H:%M:%SZ"),
                    letter.event_type or "(trimmed)",
                    plain(_subject(letter), _ERROR_WIDTH),
                    letter.attempts,
                    plain(f"{letter.error_type}: {letter.error_text}", _ERROR_WIDTH),
                ]
                for letter in letters
            ],
            right=["ATTEMPTS"],
        )
        if has_more:
            which = "that match" if count is None else f"of {counted(count, 'dead letter')}"
            click.echo(f"these are the oldest {len(letters)} {which}; use --limit to show more", err=True)
    else:
        match = "" if where.is_open else " that match"
        click.echo(f"no dead letters{match} in {place(redis_url, namespace)}")


@dead.command()
@connection_options
@click.argument("id")
@_step
@json_option
def show(*, redis_url: str | None, namespace: str, id: str, step: str, as_json: bool) -> None:
    """Show one dead letter: its error, its event and the values.

    \b
    Example:
      motia-redis dead show --step Welcome 3/1700000000000-0
    """  # noqa: D301
    from motia_redis._admin.dead_letters import DeadLetters  # noqa: PLC0415 - slow

    facts = _facts(letter := run_on_namespace(redis_url, namespace, lambda state: DeadLetters(state).get(step, id)))
    facts |= _values(letter)
    if as_json:
        print_json(facts)
        return
    import orjson  # noqa: PLC0415

    width = max(map(len, facts))
    for name, value in facts.items():
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
        # The text of an error may have several lines.
        lines = [printable(line) for line in text.splitlines()] or [""]
        click.echo("\n".join(f"{label:{width}}  {line}" for label, line in zip([name, *[""] * len(lines)], lines, strict=False)))


def _subject(letter: DeadLetter) -> str:
    from motia_redis._store.stream_groups import StreamGroup  # noqa: PLC0415 - slow

    scope = letter.scope
    if isinstance(scope, StreamGroup):
        scope = f"stream {scope.stream}/{scope.group}"
    return "/".join(part for part in (scope or letter.topic or letter.schedule, letter.key) if part)


def _facts(letter: DeadLetter) -> dict[str, Any]:
    names = ("id", "step", "stream", "entry_id", "event_type", "scope", "topic", "key", "schedule", "revision")
    facts = {name: getattr(letter, name) for name in names}
    failure = {"error_type": letter.error_type, "error_text": letter.error_text, "attempts": letter.attempts}
    failure |= {
        "time": letter.time.isoformat(timespec="milliseconds"),
        "trace_id": letter.trace_id,
        "traceback": letter.traceback,
    }
    return {**facts, **failure}


def _values(letter: DeadLetter) -> dict[str, Any]:
    """Return the values, or their text if it is not JSON. A value that is not JSON may be what the step failed on."""
    from motia_redis.errors import CorruptValue  # noqa: PLC0415 - slow

    try:
        if letter.scope is not None:
            return {"old_value": letter.old_value, "new_value": letter.new_value}
        if letter.schedule is not None:
            times = letter.cron_time
            return {"scheduled_at": times.scheduled_at.isoformat(), "fired_at": times.fired_at.isoformat()}
        return {} if letter.topic is None else {"data": letter.data}  # noqa: TRY300 - one outcome beside the other
    except CorruptValue as error:
        texts = {
            name: letter.fields[name].decode(errors="replace") for name in (b"old", b"new", b"data") if name in letter.fields
        }
        return {"values": str(error), **{f"{name.decode()}_text": text for name, text in texts.items()}}


def _check_choice(ids: Sequence[str], chosen: Chosen, *, every: bool) -> None:
    if bool(ids) == (every or chosen.has_conditions):
        raise click.UsageError("Give either IDs, or --all, or conditions such as --error.")
    if ids and chosen.step is None:
        raise click.UsageError("IDs require --step.")
    if ids and (chosen.dry_run or chosen.rate is not None):
        raise click.UsageError("--dry-run and --rate are for --all and conditions, not for IDs.")


@dead.command()
@connection_options
@_some
def retry(
    *, redis_url: str | None, namespace: str, ids: tuple[str, ...], step: str | None, every: bool, **conditions: Any
) -> None:
    """Run the events of dead letters again, for their step only.

    An event runs again after the newer events of its key, with its original revision and all its attempts. A dead letter is
    removed when its event is back in the stream; both happen atomically. The letters meant are named by IDs, or by --all, or by
    conditions, which must all hold. Letters that appear meanwhile stay.

    \b
    Example:
      motia-redis dead retry --step Welcome 3/1700000000000-0
      motia-redis dead retry --step Welcome --all --rate 50
      motia-redis dead retry --error ConnectionError --after 2h --dry-run
    """  # noqa: D301
    _check_choice(ids, chosen := Chosen(step, **conditions), every=every)
    if not ids:
        sweep(redis_url, namespace, chosen, "retry", order=_ORDER)
        return
    done, left = _with_letters(redis_url, namespace, lambda letters: _apply(ids, partial(letters.retry, step or "")))
    each = "it" if done == 1 else "each"
    order = f"; {each} {_ORDER}" if done else ""
    click.echo(f"retried {counted(done, 'dead letter')} in {place(redis_url, namespace)}{order}")
    _report(left)


@dead.command()
@connection_options
@_some
@click.option("--yes", is_flag=True, help="Do not ask for confirmation of --all and conditions.")
def drop(
    *, redis_url: str | None, namespace: str, ids: tuple[str, ...], step: str | None, every: bool, yes: bool, **conditions: Any
) -> None:
    """Delete dead letters. They cannot be recovered.

    The letters meant are named by IDs, or by --all, or by conditions, which must all hold. Letters that appear meanwhile stay.

    \b
    Example:
      motia-redis dead drop --step Welcome 3/1700000000000-0
      motia-redis dead drop --step Welcome --all --yes
      motia-redis dead drop --scope users --before 7d --dry-run
    """  # noqa: D301
    _check_choice(ids, chosen := Chosen(step, **conditions), every=every)
    if not ids:
        if not yes and not chosen.dry_run:
            which = f"step {step!r}" if step else "all steps"
            match = " that match" if chosen.has_conditions else ""
            confirm(f"Drop all dead letters of {which}{match} in {place(redis_url, namespace)}?", verb="drop", done="dropped")
        sweep(redis_url, namespace, chosen, "drop")
        return
    done, left = _with_letters(redis_url, namespace, lambda letters: _apply(ids, partial(letters.drop, step or "")))
    click.echo(f"dropped {counted(done, 'dead letter')} in {place(redis_url, namespace)}")
    _report(left)


def _with_letters(redis_url: str | None, namespace: str, work: Callable[[DeadLetters], Awaitable[_T]]) -> _T:
    from motia_redis._admin.dead_letters import DeadLetters  # noqa: PLC0415 - slow

    return run_on_namespace(redis_url, namespace, lambda state: work(DeadLetters(state)))


async def _apply(ids: Sequence[str], act: Callable[[str], Awaitable[None]]) -> tuple[int, list[str]]:
    """Call `act` for each id. Return how many calls succeeded, and the error messages of the others."""
    from motia_redis.errors import DeadLetterMissing, StepMissing  # noqa: PLC0415 - slow

    done, left = 0, []
    for letter in dict.fromkeys(ids):
        try:
            await act(letter)
        except (DeadLetterMissing, StepMissing) as error:
            left.append(str(error))
        else:
            done += 1
    return done, left


def _report(left: Sequence[str]) -> None:
    """End with exit code 2 and the first error message, if any dead letters were left."""
    if left:
        with one_line_errors():
            raise CommandError(left[0] + (f" (and {counted(len(left) - 1, 'more error')})" if len(left) > 1 else ""))
