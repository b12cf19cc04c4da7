"""The commands for who runs an application: `status`, `doctor`, `dead list|show|retry|drop` and `steps forget`."""

from __future__ import annotations

import asyncio
import logging
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from motia_redis._cli.options import CommandError, connection_options, one_line_errors, stack, state_manager
from motia_redis._cli.output import counted, plain, print_json, printable, table

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from motia_redis._admin.dead_letters import DeadLetter, DeadLetters
    from motia_redis._admin.status import Status
    from motia_redis._store.manager import StateManager

_T = TypeVar("_T")
_ERROR_WIDTH = 60  # characters of an error in a list
_IN_ORDER = "runs again after the newer events of its key, with its original revision"

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_step = click.option("--step", metavar="NAME", required=True, help="The step that gave up.")
_some = stack(
    click.argument("ids", nargs=-1, metavar="[ID]..."),
    click.option("--step", metavar="NAME", help="The step that gave up; needed with IDs."),
    click.option("--all", "every", is_flag=True, help="All that there are now, of the step or of all steps."),
)


def _run(redis_url: str | None, namespace: str, work: Callable[[StateManager], Awaitable[_T]], *, must_exist: bool = True) -> _T:
    """Do the work with a manager of the namespace, which must exist, unless: a mistyped name must not create one."""
    from motia_redis._admin.registry import raw_router  # noqa: PLC0415
    from motia_redis._store.keyspace import layout_key  # noqa: PLC0415 - see cli.py

    async def run() -> _T:
        state = state_manager(redis_url, namespace)
        try:
            async with raw_router(state, f"namespace {namespace!r}") as router:
                if must_exist and not await router.execute(layout_key(namespace), "EXISTS", layout_key(namespace)):
                    raise CommandError(f"there is no namespace {namespace!r} in this Redis: nothing has connected with it yet")
            return await work(state)
        finally:
            await state.close()

    logging.getLogger("motia_redis").addHandler(logging.NullHandler())  # who wants the warnings asks the doctor
    with one_line_errors():
        return asyncio.run(run())
    raise AssertionError  # one_line_errors ends the process


# -- status -----------------------------------------------------------------------------------------------------------


@click.command()
@connection_options
@_json
def status(*, redis_url: str | None, namespace: str, as_json: bool) -> None:
    """Show steps, what they have not handled yet, their workers and dead letters.

    LAG is what is not delivered to a worker yet, PENDING what is delivered and not handled, OLDEST the age of the oldest of both
    in seconds. Lanes are the streams that a step reads; each is worked by one worker at a time.

    \b
    Example:
      motia-redis status --redis redis://localhost:6379/0
    """  # noqa: D301 - \b is click's mark for a paragraph that must not be wrapped
    from dataclasses import asdict  # noqa: PLC0415 - see cli.py

    from motia_redis._admin.status import read_status  # noqa: PLC0415

    found = _run(redis_url, namespace, read_status)
    if as_json:
        print_json(asdict(found))
    else:
        _print_status(found)


def _print_status(found: Status) -> None:
    if found.steps:
        head = ["STEP", "LAG", "PENDING", "OLDEST", "LANES", "DEAD"]
        rows = [
            [
                step.name,
                f"{step.lag}{'' if step.lag_exact else '+'}",
                step.pending,
                "-" if step.oldest_age is None else f"{step.oldest_age:.1f}",
                f"{step.lanes_held}/{step.lanes}",
                step.dead_letters,
            ]
            for step in found.steps
        ]
        table(head, rows, right=head[1:])
    else:
        click.echo("no steps")
    click.echo()
    if found.dropped:
        count = counted(sum(found.dropped.values()), "unhandled event")
        click.echo(f"the hard cap has dropped {count}: {plain(', '.join(f'{k} {v}' for k, v in found.dropped.items()))}\n")
    if not found.workers:
        click.echo("no workers")
        return
    head = ["WORKER", "HOST", "PID", "LANES"]
    lanes = [" ".join(f"{name}:{count}" for name, count in worker.lanes.items()) for worker in found.workers]
    table(head, [[w.id, w.host, w.pid, text] for w, text in zip(found.workers, lanes, strict=True)], right=["PID"])


# -- doctor -----------------------------------------------------------------------------------------------------------


@click.command()
@connection_options
@_json
def doctor(*, redis_url: str | None, namespace: str, as_json: bool) -> None:
    """Check whether a Redis keeps what is given to it, with the remedy for what is wrong.

    Ends with 1 when a check failed: state may get lost, or nothing works.

    \b
    Example:
      motia-redis doctor --redis redis://localhost:6379/0
    """  # noqa: D301
    from dataclasses import asdict  # noqa: PLC0415 - see cli.py

    from motia_redis._admin.doctor import examine  # noqa: PLC0415

    nodes = _run(redis_url, namespace, examine, must_exist=False)
    if as_json:
        print_json([asdict(node) for node in nodes])
    else:
        for node in nodes:
            click.echo(f"{node.address}")
            for line in node.findings:
                click.echo(f"  {line.outcome:<8} {line.check:<12} {plain(line.found)}")
                if line.remedy and line.outcome != "ok":
                    click.echo(f"  {'':<8} {'':<12} -> {line.remedy}")
    if any(line.outcome == "failed" for node in nodes for line in node.findings):
        sys.exit(1)


# -- dead letters -----------------------------------------------------------------------------------------------------


@click.group()
def dead() -> None:
    """Look at events that a step gave up on, run them again or drop them.

    \b
    Example:
      motia-redis dead list --redis redis://localhost:6379/0
    """  # noqa: D301


@dead.command("list")
@connection_options
@click.option("--step", metavar="NAME", help="Only this step's.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, metavar="N", help="The oldest N.")
@_json
def list_(*, redis_url: str | None, namespace: str, step: str | None, limit: int, as_json: bool) -> None:
    """List dead letters, the oldest first.

    \b
    Example:
      motia-redis dead list --step Welcome
    """  # noqa: D301
    from motia_redis._admin.dead_letters import DeadLetters  # noqa: PLC0415 - see cli.py

    async def work(state: StateManager) -> tuple[list[DeadLetter], int]:
        letters = DeadLetters(state)
        return await letters.list(step, limit=limit), await letters.count(step)

    letters, count = _run(redis_url, namespace, work)
    if as_json:
        print_json([_facts(letter) for letter in letters])
    elif letters:
        table(
            ["ID", "STEP", "TIME", "EVENT", "OF", "ATTEMPTS", "ERROR"],
            [
                [
                    letter.id,
                    letter.step,
                    letter.time.strftime("%Y-%m-%d %H:%M:%SZ"),
                    letter.event_type or "(trimmed)",
                    plain("/".join(part for part in (letter.scope or letter.topic, letter.key) if part), _ERROR_WIDTH),
                    letter.attempts,
                    plain(f"{letter.error_type}: {letter.error_text}", _ERROR_WIDTH),
                ]
                for letter in letters
            ],
            right=["ATTEMPTS"],
        )
        if count > len(letters):
            click.echo(f"the oldest {len(letters)} of {count}; --limit shows more", err=True)
    else:
        click.echo("no dead letters")


@dead.command()
@connection_options
@click.argument("id")
@_step
@_json
def show(*, redis_url: str | None, namespace: str, id: str, step: str, as_json: bool) -> None:
    """Show one dead letter with its values.

    \b
    Example:
      motia-redis dead show --step Welcome 3/1700000000000-0
    """  # noqa: D301
    from motia_redis._admin.dead_letters import DeadLetters  # noqa: PLC0415 - see cli.py

    facts = _facts(letter := _run(redis_url, namespace, lambda state: DeadLetters(state).get(step, id)))
    facts |= _values(letter)
    if as_json:
        print_json(facts)
        return
    import orjson  # noqa: PLC0415

    width = max(map(len, facts))
    for name, value in facts.items():
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
        # The error may have many lines, which say more than one.
        lines = [printable(line) for line in text.splitlines()] or [""]
        click.echo("\n".join(f"{label:{width}}  {line}" for label, line in zip([name, *[""] * len(lines)], lines, strict=False)))


def _facts(letter: DeadLetter) -> dict[str, Any]:
    names = ("id", "step", "stream", "entry_id", "event_type", "scope", "topic", "key", "revision")
    facts = {name: getattr(letter, name) for name in names}
    story = {"error_type": letter.error_type, "error_text": letter.error_text, "attempts": letter.attempts}
    return {**facts, **story, "time": letter.time.isoformat(timespec="milliseconds")}


def _values(letter: DeadLetter) -> dict[str, Any]:
    """Return the values, or their text where it is not JSON: that may be the very reason why the letter is here."""
    from motia_redis.errors import CorruptValue  # noqa: PLC0415 - see cli.py

    try:
        if letter.scope is not None:
            return {"old_value": letter.old_value, "new_value": letter.new_value}
        return {} if letter.topic is None else {"data": letter.data}  # noqa: TRY300 - one outcome beside the other
    except CorruptValue as error:
        texts = {
            name: letter.fields[name].decode(errors="replace") for name in (b"old", b"new", b"data") if name in letter.fields
        }
        return {"values": str(error), **{f"{name.decode()}_text": text for name, text in texts.items()}}


def _chosen(ids: Sequence[str], step: str | None, *, every: bool) -> None:
    if every == bool(ids):
        raise click.UsageError("Give IDs, or --all.")
    if ids and step is None:
        raise click.UsageError("IDs need --step.")


@dead.command()
@connection_options
@_some
def retry(*, redis_url: str | None, namespace: str, ids: tuple[str, ...], step: str | None, every: bool) -> None:
    """Have the step handle dead letters again; other steps do not see them.

    An event runs again after the newer events of its key, with its original revision and all its attempts. A letter leaves the
    list in the same moment in which its event is back.

    \b
    Example:
      motia-redis dead retry --step Welcome 3/1700000000000-0
      motia-redis dead retry --step Welcome --all
    """  # noqa: D301
    _chosen(ids, step, every=every)

    async def work(letters: DeadLetters) -> tuple[int, list[str]]:
        if every:
            return await letters.retry_all(step)
        return await _each(ids, partial(letters.retry, step or ""))

    done, left = _with_letters(redis_url, namespace, work)
    each = "it" if done == 1 else "each"
    click.echo(f"retried {counted(done, 'dead letter')}" + (f"; {each} {_IN_ORDER}" if done else ""))
    _complain(left)


@dead.command()
@connection_options
@_some
@click.option("--yes", is_flag=True, help="Do not ask before --all.")
def drop(*, redis_url: str | None, namespace: str, ids: tuple[str, ...], step: str | None, every: bool, yes: bool) -> None:
    """Remove dead letters for good.

    \b
    Example:
      motia-redis dead drop --step Welcome 3/1700000000000-0
      motia-redis dead drop --step Welcome --all --yes
    """  # noqa: D301
    _chosen(ids, step, every=every)
    if every and not yes:
        _confirm(f"Drop all dead letters of {f'step {step!r}' if step else 'all steps'} in namespace {namespace!r}?")

    async def work(letters: DeadLetters) -> tuple[int, list[str]]:
        if every:
            return await letters.drop_all(step), []
        return await _each(ids, partial(letters.drop, step or ""))

    done, left = _with_letters(redis_url, namespace, work)
    click.echo(f"dropped {counted(done, 'dead letter')}")
    _complain(left)


def _confirm(question: str) -> None:
    with one_line_errors():
        try:
            agreed = click.confirm(question, err=True)
        except click.Abort:  # nobody there to answer
            click.echo(err=True)
            agreed = False
        if not agreed:
            raise CommandError("nothing was dropped: it was not confirmed (--yes does)")


def _with_letters(redis_url: str | None, namespace: str, work: Callable[[DeadLetters], Awaitable[_T]]) -> _T:
    from motia_redis._admin.dead_letters import DeadLetters  # noqa: PLC0415 - see cli.py

    return _run(redis_url, namespace, lambda state: work(DeadLetters(state)))


async def _each(ids: Sequence[str], act: Callable[[str], Awaitable[None]]) -> tuple[int, list[str]]:
    """Act on each letter; return how many there were, and what was wrong with the others."""
    from motia_redis.errors import DeadLetterMissing, StepMissing  # noqa: PLC0415 - see cli.py

    done, left = 0, []
    for letter in dict.fromkeys(ids):
        try:
            await act(letter)
        except (DeadLetterMissing, StepMissing) as error:
            left.append(str(error))
        else:
            done += 1
    return done, left


def _complain(left: Sequence[str]) -> None:
    """End with an error if some letters were left, naming the first."""
    if left:
        with one_line_errors():
            raise CommandError(left[0] + (f" (and {len(left) - 1} more like it)" if len(left) > 1 else ""))


# -- steps ------------------------------------------------------------------------------------------------------------


@click.group()
def steps() -> None:
    """Remove steps that no longer exist.

    \b
    Example:
      motia-redis steps forget OldStep
    """  # noqa: D301


@steps.command()
@connection_options
@click.argument("name")
@click.option("--with-dead-letters", is_flag=True, help="Drop its dead letters, too.")
@click.option(
    "--force", is_flag=True, help="Even while a live worker runs it; that makes its groups again, to read all there is."
)
def forget(*, redis_url: str | None, namespace: str, name: str, with_dead_letters: bool, force: bool) -> None:
    """Remove a step that no longer exists, so that no events are kept for it.

    What it has not handled is lost to it: should it come back, it begins with the events written from then on.

    \b
    Example:
      motia-redis steps forget OldStep --redis redis://localhost:6379/0
    """  # noqa: D301
    from motia_redis._admin.registry import forget_step  # noqa: PLC0415 - see cli.py

    done = _run(redis_url, namespace, lambda state: forget_step(state, name, with_dead_letters=with_dead_letters, force=force))
    text = f"forgot step {name}: {counted(done.groups, 'consumer group')} removed"
    if done.dead_letters:
        text += f", {counted(done.dead_letters, 'dead letter')} {'dropped' if done.dropped else 'kept'}"
    click.echo(text)
