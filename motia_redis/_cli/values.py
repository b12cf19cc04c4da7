"""Define the commands `get`, `set`, `update` and `delete`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from motia_redis._cli.arguments import (
    change_arguments,
    change_options,
    create_option,
    json_argument,
    key_argument,
    parse_argument,
    read_text,
    scope_argument,
    scope_of,
    text_option,
    ttl_argument,
    ttl_option,
)
from motia_redis._cli.formats import note, output_option, print_entry, print_value
from motia_redis._cli.namespace import place, run_on_namespace
from motia_redis._cli.options import EXIT_NEGATIVE, CommandError, connection_options, one_line_errors

if TYPE_CHECKING:
    from motia_redis._store.manager import StateManager
    from motia_redis._store.reading import Entry


@click.command()
@connection_options
@scope_argument
@key_argument
@output_option()
def get(*, redis_url: str | None, namespace: str, scope: str, key: str, output: str | None) -> None:
    """Print the value of a key. The exit code is 1 if it has none.

    Numbers are printed as they are stored, with all digits.

    \b
    --output text   the value, indented; the default at a terminal
    --output json   the value on one line; the default elsewhere
    --output jsonl  an object with scope, key, revision, expires_at and value
    --output table  the same for a person

    \b
    Example:
      motia-redis get users ann
      motia-redis get users ann | jq .name
      motia-redis get users ann --output jsonl | jq -r .revision
    """  # noqa: D301

    async def work(state: StateManager) -> Entry[str] | None:
        from motia_redis._store.json_texts import with_texts  # noqa: PLC0415 - slow

        return await with_texts(state).entry(scope_of(scope), key)

    entry = run_on_namespace(redis_url, namespace, work)
    if entry is None:
        _fail_without_value(redis_url, namespace, scope, key)
    else:
        print_entry(scope, key, entry, output)


@click.command("set")
@connection_options
@scope_argument
@key_argument
@click.argument("value")
@text_option
@ttl_option
@change_options
@create_option
def set_(
    *,
    redis_url: str | None,
    namespace: str,
    scope: str,
    key: str,
    value: str,
    is_text: bool,
    ttl: Any,
    if_revision: str | None,
    idempotency_key: str | None,
    creates: bool,
) -> None:
    """Store VALUE, a JSON text, or what standard input has if VALUE is -.

    Numbers are stored as they are written, with all digits. Without --ttl the value never expires.

    \b
    Example:
      motia-redis set users ann '{"name": "Ann"}'
      motia-redis set notes today "buy milk" --text --ttl 12h
      motia-redis set users ann - < ann.json
      motia-redis set users ann '{}' --if-revision none
    """  # noqa: D301
    with one_line_errors():
        text = json_argument(value, "VALUE", is_text=is_text)
    options = change_arguments(if_revision, idempotency_key) | ttl_argument(ttl)

    async def work(state: StateManager) -> None:
        from motia_redis._store.json_texts import with_texts  # noqa: PLC0415 - slow

        await with_texts(state).set(scope_of(scope), key, text, **options)

    run_on_namespace(redis_url, namespace, work, creates=creates)
    note(f"stored key {key!r} of scope {scope!r} in {place(redis_url, namespace)}")


@click.command()
@connection_options
@scope_argument
@key_argument
@click.argument("operations", required=False, metavar="[OPERATIONS]")
@click.option("--op", "ops", multiple=True, metavar="JSON", help="One operation. May be given more than once.")
@click.option("--strict", is_flag=True, help="Follow RFC 6902: missing keys and members are errors.")
@ttl_option
@change_options
@create_option
@output_option("text", "json")
def update(
    *,
    redis_url: str | None,
    namespace: str,
    scope: str,
    key: str,
    operations: str | None,
    ops: tuple[str, ...],
    strict: bool,
    ttl: Any,
    if_revision: str | None,
    idempotency_key: str | None,
    creates: bool,
    output: str | None,
) -> None:
    """Change parts of a value inside Redis, all or none, and print the new value.

    OPERATIONS is a JSON list of operations of JSON Patch or of Motia, or - for standard input. The exit code is 1 if a `test`
    fails, or if --strict meets a key without a value. Without --ttl the value expires when it would have.

    \b
    Example:
      motia-redis update users ann '[{"op": "increment", "path": "/logins", "value": 1}]'
      motia-redis update users ann --op '{"type": "set", "path": "name", "value": "Anna"}'
      motia-redis update users ann - < operations.json
    """  # noqa: D301
    if (operations is None) == (not ops):
        raise click.UsageError("Give either OPERATIONS or --op.")
    with one_line_errors():
        changes: Any
        if operations is not None:
            parsed = parse_argument(read_text(operations), "OPERATIONS", exactly=True)
            changes = [parsed] if isinstance(parsed, dict) else parsed
        else:
            changes = [parse_argument(op, "--op", exactly=True) for op in ops]
    options = change_arguments(if_revision, idempotency_key) | ttl_argument(ttl)

    async def work(state: StateManager) -> str:
        from motia_redis._store.json_texts import with_texts  # noqa: PLC0415 - slow

        text: str = await with_texts(state).update(scope_of(scope), key, changes, strict, **options)
        return text

    print_value(run_on_namespace(redis_url, namespace, work, creates=creates), output)


@click.command()
@connection_options
@scope_argument
@key_argument
@change_options
@output_option("text", "json")
def delete(
    *,
    redis_url: str | None,
    namespace: str,
    scope: str,
    key: str,
    if_revision: str | None,
    idempotency_key: str | None,
    output: str | None,
) -> None:
    """Remove a key and print the value that it had. The exit code is 1 if it had none.

    \b
    Example:
      motia-redis delete users ann
      motia-redis delete users ann --if-revision 1795737884986-0
    """  # noqa: D301

    async def work(state: StateManager) -> str | None:
        from motia_redis._store.json_texts import with_texts  # noqa: PLC0415 - slow

        options = change_arguments(if_revision, idempotency_key)
        text: str | None = await with_texts(state).delete(scope_of(scope), key, **options)
        return text

    text = run_on_namespace(redis_url, namespace, work)
    if text is None:
        _fail_without_value(redis_url, namespace, scope, key)
    else:
        print_value(text, output)


def _fail_without_value(redis_url: str | None, namespace: str, scope: str, key: str) -> None:
    with one_line_errors():
        raise CommandError(f"key {key!r} of scope {scope!r} has no value in {place(redis_url, namespace)}", EXIT_NEGATIVE)
