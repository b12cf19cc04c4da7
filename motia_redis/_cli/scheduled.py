"""Define the commands `scheduled list` and `scheduled cancel`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from motia_redis._cli.namespace import json_option, place, run_on_namespace
from motia_redis._cli.options import CommandError, confirm, connection_options, one_line_errors
from motia_redis._cli.output import counted, plain, print_json, table

if TYPE_CHECKING:
    from motia_redis._admin.scheduled import ScheduledMessage
    from motia_redis._store.manager import StateManager

_TEXT_WIDTH = 60  # characters of a topic, a key or data in a list


@click.group()
def scheduled() -> None:
    """List and cancel delayed messages.

    A delayed message waits in Redis for its time. Then it is sent to the steps of its topic.

    \b
    Example:
      motia-redis scheduled list --redis redis://localhost:6379/0
      motia-redis scheduled cancel 3-0123456789abcdef
    """  # noqa: D301


@scheduled.command("list")
@connection_options
@click.option("--topic", metavar="NAME", help="Only messages of this topic.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=100, show_default=True, metavar="N", help="At most N, those due first."
)
@json_option
def list_(*, redis_url: str | None, namespace: str, topic: str | None, limit: int, as_json: bool) -> None:
    """List delayed messages, those due first at the top.

    \b
    Example:
      motia-redis scheduled list --topic mail --limit 20
      motia-redis scheduled list --json
    """  # noqa: D301
    from motia_redis._admin.scheduled import Scheduled  # noqa: PLC0415 - slow

    async def work(state: StateManager) -> tuple[list[ScheduledMessage], int]:
        waiting = Scheduled(state)
        found = await waiting.list(topic, limit=limit)
        return found, len(found) if len(found) < limit else await waiting.count(topic)

    messages, count = run_on_namespace(redis_url, namespace, work)
    if as_json:
        print_json([_facts(message) for message in messages])
    elif messages:
        click.echo(f"{place(redis_url, namespace)}\n")
        table(
            ["ID", "DUE", "TOPIC", "KEY", "DATA"],
            [
                [
                    message.id,
                    message.due.strftime("%Y-%m-%d %H:%M:%SZ"),
                    plain(message.topic, _TEXT_WIDTH),
                    plain(message.key or "", _TEXT_WIDTH),
                    plain(message.text.decode(errors="replace"), _TEXT_WIDTH),
                ]
                for message in messages
            ],
        )
        if count > len(messages):
            text = f"these are the first {len(messages)} of {counted(count, 'delayed message')}; use --limit to show more"
            click.echo(text, err=True)
    else:
        click.echo(f"no delayed messages in {place(redis_url, namespace)}")


def _facts(message: ScheduledMessage) -> dict[str, Any]:
    from motia_redis.errors import CorruptValue  # noqa: PLC0415 - slow

    facts = {"id": message.id, "topic": message.topic, "key": message.key, "trace_id": message.trace_id}
    facts["due"] = message.due.isoformat(timespec="milliseconds")
    try:
        return {**facts, "data": message.data}
    except CorruptValue:  # another client wrote it
        return {**facts, "data_text": message.text.decode(errors="replace")}


@scheduled.command()
@connection_options
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--topic", metavar="NAME", help="With --all: only messages of this topic.")
@click.option("--all", "every", is_flag=True, help="All messages that wait now, of the topic or of all topics.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation of --all.")
def cancel(*, redis_url: str | None, namespace: str, ids: tuple[str, ...], topic: str | None, every: bool, yes: bool) -> None:
    """Remove delayed messages. They are not sent, and cannot be recovered.

    The exit code is 2 if one of the messages did not wait: it was sent or cancelled before.

    \b
    Example:
      motia-redis scheduled cancel 3-0123456789abcdef
      motia-redis scheduled cancel --all --topic mail --yes
    """  # noqa: D301
    from motia_redis._admin.scheduled import Scheduled  # noqa: PLC0415 - slow

    if every == bool(ids):
        raise click.UsageError("Give either IDs or --all.")
    if ids and topic is not None:
        raise click.UsageError("--topic requires --all.")
    if every and not yes:
        which = f"of topic {topic!r}" if topic is not None else "of all topics"
        confirm(f"Cancel all delayed messages {which} in {place(redis_url, namespace)}?", verb="cancel", done="cancelled")

    async def work(state: StateManager) -> tuple[int, list[str]]:
        waiting = Scheduled(state)
        if every:
            return await waiting.cancel_all(topic), []
        outcomes = {message: await waiting.cancel(message) for message in dict.fromkeys(ids)}
        return sum(outcomes.values()), [message for message, cancelled in outcomes.items() if not cancelled]

    done, left = run_on_namespace(redis_url, namespace, work)
    click.echo(f"cancelled {counted(done, 'delayed message')} in {place(redis_url, namespace)}")
    if left:
        with one_line_errors():
            more = f" (and {counted(len(left) - 1, 'more message')})" if len(left) > 1 else ""
            raise CommandError(plain(f"message {left[0]} does not wait: it was sent or cancelled before{more}"))
