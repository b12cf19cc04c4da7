"""Define the command `settings`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from motia_redis._cli.namespace import json_option, place, run_on_namespace
from motia_redis._cli.options import connection_options, stack
from motia_redis._cli.output import print_json, table

if TYPE_CHECKING:
    from motia_redis._store.manager import StateManager
    from motia_redis._store.settings import Settings

_RETENTION = {
    "entries": "A stream with at most so many entries is not trimmed.",
    "seconds": "Younger entries are kept.",
    "most-entries": "Hard cap: over it, unhandled entries go, too.",
    "bytes": "Bytes of a stream, besides what is not handled.",
    "topic-entries": "Messages that a topic keeps before a step consumes it.",
    "topic-seconds": "How long a topic keeps them.",
    "topic-bytes": "How many bytes of them.",
    "dead-letters": "Dead letters of one step in one partition.",
    "dead-letter-seconds": "Age at which dead letters are dropped.",
}
_retention = stack(
    *(
        click.option(f"--retention-{name}", type=float, metavar="SECONDS", help=text)
        if name.endswith("seconds")
        else click.option(f"--retention-{name}", type=int, metavar="N", help=text)
        for name, text in _RETENTION.items()
    )
)


@click.command()
@connection_options
@json_option
@click.option("--deadline", type=float, metavar="SECONDS", help="Longest time for which a process may repeat a call.")
@_retention
def settings(*, redis_url: str | None, namespace: str, as_json: bool, **options: float | None) -> None:
    """Show the settings that all processes of a namespace share, or change those that are given.

    Running processes use changed settings from their next connection on.

    \b
    Example:
      motia-redis settings --redis redis://localhost:6379/0
      motia-redis settings --retention-entries 1000 --deadline 20
    """  # noqa: D301
    changes = {name.removeprefix("retention_"): value for name, value in options.items() if value is not None}

    async def work(state: StateManager) -> Settings:
        from motia_redis._admin.settings import change_settings  # noqa: PLC0415 - slow

        return await change_settings(state, **changes) if changes else await state.settings()

    stored = run_on_namespace(redis_url, namespace, work)
    values = _values(stored)
    if as_json:
        print_json(values)
    else:
        click.echo(f"{place(redis_url, namespace)}\n")
        # Not `:g`, which writes 30 days as 2.592e+06.
        table(["SETTING", "VALUE"], [(name, str(value).removesuffix(".0")) for name, value in values.items()])


def _values(stored: Settings) -> dict[str, Any]:
    from motia_redis._store.settings import RETENTION_FIELDS  # noqa: PLC0415 - slow

    retention = {f"retention-{name.replace('_', '-')}": getattr(stored.retention, name) for name in RETENTION_FIELDS}
    return {"deadline": stored.deadline} | retention
