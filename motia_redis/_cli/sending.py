"""Define the command `enqueue`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from motia_redis._cli.arguments import create_option, idempotency_option, moment, parse_argument, read_text, seconds, text_option
from motia_redis._cli.namespace import run_on_namespace
from motia_redis._cli.options import connection_options, one_line_errors

if TYPE_CHECKING:
    from motia_redis._store.manager import StateManager


@click.command()
@connection_options
@click.argument("topic")
@click.argument("data")
@text_option
@click.option("--key", metavar="TEXT", help="Messages with the same key are handled in order.")
@click.option("--delay", type=seconds, metavar="DURATION", help="Send the message so much later: seconds, or 30s, 5m, 2h, 7d.")
@click.option("--at", type=moment, metavar="TIME", help="Send the message then: Unix seconds, or 2030-01-31T08:00:00+01:00.")
@idempotency_option
@create_option
def enqueue(
    *,
    redis_url: str | None,
    namespace: str,
    topic: str,
    data: str,
    is_text: bool,
    key: str | None,
    delay: float | None,
    at: Any,
    idempotency_key: str | None,
    creates: bool,
) -> None:
    """Send a message to the steps with a queue trigger for TOPIC, and print its id.

    DATA is a JSON text, or - for standard input.

    \b
    Example:
      motia-redis enqueue mail '{"to": "ann@example.org"}' --key ann
      motia-redis enqueue mail - --delay 5m < message.json
      motia-redis enqueue report null --at 2030-01-31T08:00:00+01:00
    """  # noqa: D301
    if delay is not None and at is not None:
        raise click.UsageError("Give either --delay or --at.")
    with one_line_errors():
        text = read_text(data)
        value = text if is_text else parse_argument(text, "DATA", exactly=True)

    async def work(state: StateManager) -> str:
        return await state.enqueue(topic, value, key=key, delay=delay, at=at, idempotency_key=idempotency_key)

    click.echo(run_on_namespace(redis_url, namespace, work, creates=creates))
