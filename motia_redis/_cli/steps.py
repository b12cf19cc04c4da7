"""Define the commands `steps create`, `pause`, `resume`, `seek`, `rename` and `forget`."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from motia_redis._cli.arguments import past
from motia_redis._cli.namespace import place, run_on_namespace
from motia_redis._cli.options import confirm, connection_options, one_line_errors
from motia_redis._cli.output import counted, plain


@click.group()
def steps() -> None:
    """Create, pause, move, rename and forget what steps have in Redis.

    \b
    Example:
      motia-redis steps create app.py
      motia-redis steps pause SendMail
      motia-redis steps resume SendMail
      motia-redis steps seek SendMail --to '2h ago'
      motia-redis steps rename SendMail Mail
      motia-redis steps forget OldStep
    """  # noqa: D301


@steps.command()
@connection_options
@click.argument("name")
@click.option("--with-dead-letters", is_flag=True, help="Drop the dead letters of the step, too.")
@click.option("--lanes", is_flag=True, help="Forget only the lanes that no running version of the step wants.")
@click.option(
    "--force", is_flag=True, help="Forget the step even while a live worker runs it. The worker makes the groups again."
)
def forget(*, redis_url: str | None, namespace: str, name: str, with_dead_letters: bool, lanes: bool, force: bool) -> None:
    """Remove the consumer groups of a step that no longer exists, and trim what they kept.

    The step loses what it has not handled. If it comes back, it begins like a new step. Its dead letters stay, unless
    --with-dead-letters. While workers run the step, only the lanes are forgotten that none of its running versions wants, such as
    those of a scope or topic that its triggers had before.

    \b
    Example:
      motia-redis steps forget OldStep --redis redis://localhost:6379/0
      motia-redis steps forget OldStep --with-dead-letters
      motia-redis steps forget ChangedStep --lanes
    """  # noqa: D301
    from motia_redis._admin.registry import forget_step  # noqa: PLC0415 - slow

    done = run_on_namespace(
        redis_url,
        namespace,
        lambda state: forget_step(state, name, with_dead_letters=with_dead_letters, only_lanes=lanes, force=force),
    )
    subject = f"unwanted lanes of step {name}" if done.only_lanes else f"step {name}"
    text = f"forgot {subject}: {counted(done.groups, 'consumer group')} removed"
    if done.dead_letters and not done.only_lanes:
        text += f", {counted(done.dead_letters, 'dead letter')} {'dropped' if done.dropped else 'kept'}"
    click.echo(plain(f"{text} ({place(redis_url, namespace)})"))


@steps.command()
@connection_options
@click.argument("app", nargs=-1, required=True)
def create(*, redis_url: str | None, namespace: str, app: tuple[str, ...]) -> None:
    """Create the consumer groups of an application's steps: in a deploy, before anything writes for them.

    A new step then gets what is written from now on, also before its first worker runs. Groups that exist do not change.

    \b
    Example:
      motia-redis steps create app.py --redis redis://localhost:6379/0
    """  # noqa: D301
    from motia_redis._steps.loading import load_application  # noqa: PLC0415 - slow
    from motia_redis._worker.worker import Worker  # noqa: PLC0415 - slow

    with one_line_errors():
        application = load_application(app)
    created = run_on_namespace(redis_url, namespace, lambda state: Worker(application, state).prepare(), must_exist=False)
    names = ", ".join(step.name for step in application.worker_steps) or "none that consumes events"
    click.echo(f"steps: {plain(names)}; {counted(created, 'consumer group')} created ({place(redis_url, namespace)})")


@steps.command()
@connection_options
@click.argument("old")
@click.argument("new")
def rename(*, redis_url: str | None, namespace: str, old: str, new: str) -> None:
    """Give what a step has to another name: its position, what it has not finished, and its dead letters.

    Stop the workers of the old name before, and start those of the new one afterwards.

    \b
    Example:
      motia-redis steps rename SendMail Mail --redis redis://localhost:6379/0
    """  # noqa: D301
    from motia_redis._admin.registry import rename_step  # noqa: PLC0415 - slow

    done = run_on_namespace(redis_url, namespace, lambda state: rename_step(state, old, new))
    letters = f", {counted(done.dead_letters, 'dead letter')}" if done.dead_letters else ""
    text = f"renamed step {old} to {new}: {counted(done.groups, 'consumer group')}{letters}"
    click.echo(plain(f"{text} ({place(redis_url, namespace)})"))


@steps.command()
@connection_options
@click.argument("step")
def pause(*, redis_url: str | None, namespace: str, step: str) -> None:
    """Handle nothing of a step until `steps resume`, in all workers of the namespace.

    Handlers that run go on to their end. Workers follow with their next heartbeat, half a second by default. What is written
    meanwhile waits, within the namespace's retention. The step stays paused when workers and Redis are started again.

    \b
    Example:
      motia-redis steps pause SendMail --redis redis://localhost:6379/0
    """  # noqa: D301
    from motia_redis._admin.pausing import pause_step  # noqa: PLC0415 - slow

    done = run_on_namespace(redis_url, namespace, lambda state: pause_step(state, step))
    text = f"paused step {step}" if done.changed else f"step {step} was paused already, since {_time(done.since)}"
    click.echo(plain(f"{text} ({place(redis_url, namespace)})"))


@steps.command()
@connection_options
@click.argument("step")
def resume(*, redis_url: str | None, namespace: str, step: str) -> None:
    """Handle the events of a paused step again, from where it was paused.

    \b
    Example:
      motia-redis steps resume SendMail --redis redis://localhost:6379/0
    """  # noqa: D301
    from motia_redis._admin.pausing import resume_step  # noqa: PLC0415 - slow

    done = run_on_namespace(redis_url, namespace, lambda state: resume_step(state, step))
    text = f"resumed step {step}, which was paused since {_time(done.since)}" if done.changed else f"step {step} was not paused"
    click.echo(plain(f"{text} ({place(redis_url, namespace)})"))


@steps.command()
@connection_options
@click.argument("step")
@click.option(
    "--to",
    type=past,
    required=True,
    metavar="TIME|REVISION",
    help="From where on to handle: 2030-01-31T08:00:00+01:00, Unix seconds, '2h ago', or a revision.",
)
@click.option("--skip", is_flag=True, help="Skip what is not handled and was written before.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def seek(
    *,
    redis_url: str | None,
    namespace: str,
    step: str,
    to: float | datetime | str,
    skip: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    """Let a step handle everything again from a time on, as far as it is kept.

    The command counts, asks, and then moves the step's place in its lanes. Workers may run: they follow within a heartbeat, and a
    lane with a running handler when that has ended. The order of each key stays. The numbers include entries of other scopes and
    keys in the lanes of the step. Dead letters stay as they are. A step with `effects_once` has its effects again.

    \b
    Example:
      motia-redis steps seek SendMail --to '2h ago'
      motia-redis steps seek SendMail --to 2030-01-31T08:00:00+01:00 --dry-run
      motia-redis steps seek SendMail --to 1700000000000-0 --yes
      motia-redis steps seek SendMail --to '0s ago' --skip
    """  # noqa: D301
    from motia_redis._admin.seeking import seek_step  # noqa: PLC0415 - slow

    sought = run_on_namespace(redis_url, namespace, lambda state: seek_step(state, step, to, skip=skip, dry_run=True))
    click.echo(plain(f"step {step}, from {_time(sought.since)} on ({place(redis_url, namespace)}):"))
    click.echo(f"  {counted(sought.again, 'entry', 'entries')} will be handled again, in {counted(sought.lanes, 'lane')}")
    if sought.lanes_trimmed:
        click.echo(f"  in {counted(sought.lanes_trimmed, 'lane')} older entries were trimmed: what is kept will be handled")
    if skip:
        click.echo(f"  {counted(sought.skipped, 'unhandled entry', 'unhandled entries')} will be skipped")
    if dry_run or not sought.lanes:
        return
    if not yes:
        confirm(f"Move step {step!r}?", verb="move the step", done="moved")
    run_on_namespace(redis_url, namespace, lambda state: seek_step(state, step, to, skip=skip))
    click.echo(plain(f"moved step {step}"))


def _time(seconds: float | None) -> str:
    """Return a time in Unix seconds as people read it, in UTC."""
    return datetime.fromtimestamp(seconds or 0.0, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
