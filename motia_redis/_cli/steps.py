"""Define the command `steps forget`."""

from __future__ import annotations

import click

from motia_redis._cli.namespace import run_on_namespace
from motia_redis._cli.options import connection_options
from motia_redis._cli.output import counted


@click.group()
def steps() -> None:
    """Forget steps that no longer exist.

    \b
    Example:
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
    click.echo(text)
