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
@click.option(
    "--force", is_flag=True, help="Forget the step even while a live worker runs it. The worker makes the groups again."
)
def forget(*, redis_url: str | None, namespace: str, name: str, with_dead_letters: bool, force: bool) -> None:
    """Remove the consumer groups of a step that no longer exists, so that streams can be trimmed.

    The step loses what it has not handled. If it comes back, it begins with the events written from then on. Its dead letters
    stay, unless --with-dead-letters.

    \b
    Example:
      motia-redis steps forget OldStep --redis redis://localhost:6379/0
      motia-redis steps forget OldStep --with-dead-letters
    """  # noqa: D301
    from motia_redis._admin.registry import forget_step  # noqa: PLC0415 - slow

    done = run_on_namespace(
        redis_url, namespace, lambda state: forget_step(state, name, with_dead_letters=with_dead_letters, force=force)
    )
    text = f"forgot step {name}: {counted(done.groups, 'consumer group')} removed"
    if done.dead_letters:
        text += f", {counted(done.dead_letters, 'dead letter')} {'dropped' if done.dropped else 'kept'}"
    click.echo(text)
