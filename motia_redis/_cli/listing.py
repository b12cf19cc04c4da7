"""Define the commands `list` and `scopes`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import click

from motia_redis._cli.arguments import prefix_option, scope_argument, scope_of
from motia_redis._cli.formats import is_terminal, json_line, note, output_option, print_lines
from motia_redis._cli.namespace import place, run_on_namespace
from motia_redis._cli.options import connection_options
from motia_redis._cli.output import plain, table
from motia_redis._steps.faults import escaped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from motia_redis._store.manager import StateManager

_PAGE = 500  # lines of one write
_PERSON = 100  # keys of a table at a terminal, unless --limit says more
_VALUE_WIDTH = 200  # characters of a value in a table


class _Item(NamedTuple):
    key: str
    text: str | None  #: JSON; None for a value that is not
    error: str = ""


@click.command("list")
@connection_options
@scope_argument
@click.option("--keys", "only_keys", is_flag=True, help="Print keys only; the values stay in Redis.")
@prefix_option
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    metavar="N",
    help=f"At most N keys; 0: all. Default: {_PERSON} for a table at a terminal, else all.",
)
@output_option()
def list_(
    *, redis_url: str | None, namespace: str, scope: str, only_keys: bool, prefix: str, limit: int | None, output: str | None
) -> None:
    """Print the keys of a scope and their values, in no particular order.

    The scope is read in pages, so that its size costs neither memory nor a pause of Redis. A key that exists all the time is
    printed at least once; it may come twice if the scope shrinks meanwhile.

    \b
    --output table  the default at a terminal
    --output jsonl  an object with key and value on each line; the default elsewhere
    --output json   one object with all keys; with --keys a list
    --output text   key, tab and value on each line; with --keys the default everywhere

    \b
    Example:
      motia-redis list users
      motia-redis list users --keys --prefix eu/
      motia-redis list users --output jsonl > users.jsonl
    """  # noqa: D301
    default = "text" if only_keys else "table" if is_terminal() else "jsonl"
    chosen = output or default
    most = limit if limit is not None else _PERSON if chosen == "table" and is_terminal() else 0
    lines = _Lines(chosen, only_keys=only_keys)

    async def work(state: StateManager) -> bool:
        page: list[_Item] = []
        count = 0
        async for item in _items(state, scope_of(scope), prefix, only_keys=only_keys):
            if most and count == most:
                lines.print_page(page)
                return True
            page.append(item)
            count += 1
            if len(page) == _PAGE:
                lines.print_page(page)
                page.clear()
        lines.print_page(page)
        return False

    has_more = run_on_namespace(redis_url, namespace, work)
    lines.print_end()
    if has_more and limit is None:
        note(f"these are {most} of more keys; use --limit to show more, or --limit 0 for all")
    elif lines.count == 0:
        note(f"no keys in scope {scope!r} of {place(redis_url, namespace)}")


async def _items(state: StateManager, scope: str, prefix: str, *, only_keys: bool) -> AsyncIterator[_Item]:
    from motia_redis._store.json_texts import scan_keys, scan_texts  # noqa: PLC0415 - slow

    if only_keys:
        async for key in scan_keys(state, scope, prefix):
            yield _Item(key, "")
    else:
        async for key, text in scan_texts(state, scope, prefix):
            yield _Item(key, text) if isinstance(text, str) else _Item(key, None, str(text))


class _Lines:
    """Print pages of keys in one of the formats."""

    def __init__(self, output: str, *, only_keys: bool) -> None:
        self.count = 0
        self._output = output
        self._only_keys = only_keys

    def print_page(self, items: Sequence[_Item]) -> None:
        """Print a page."""
        if not items:
            return
        if self._output == "table":
            head = ["KEY"] if self._only_keys else ["KEY", "VALUE"]
            rows = [[escaped(item.key), plain(self._text(item), _VALUE_WIDTH)][: len(head)] for item in items]
            table(head, sorted(rows))
        elif self._output == "json":
            self._print_members(items)
            return
        else:
            print_lines(self._line(item) for item in items)
        self.count += len(items)

    def print_end(self) -> None:
        """Print what follows the last page."""
        if self._output == "json":
            print_lines([("" if self.count else "{["[self._only_keys]) + "}]"[self._only_keys]])

    def _line(self, item: _Item) -> str:
        if self._output == "text":
            return escaped(item.key) if self._only_keys else f"{escaped(item.key)}\t{self._text(item)}"
        if self._only_keys:
            return json_line({"key": item.key})
        return json_line({"key": item.key} | ({"error": item.error} if item.text is None else {}), value=item.text)

    def _print_members(self, items: Sequence[_Item]) -> None:
        from motia_redis._store.json_texts import quoted  # noqa: PLC0415 - slow

        for item in items:
            if item.text is None:
                click.echo(f"left out: {escaped(item.error)}", err=True)
                continue
            start = "{["[self._only_keys] if self.count == 0 else ","
            click.echo(f"{start}{quoted(item.key)}" + ("" if self._only_keys else f":{item.text}"))
            self.count += 1

    def _text(self, item: _Item) -> str:
        return f"({escaped(item.error)})" if item.text is None else item.text


@click.command()
@connection_options
@click.option("--stream", metavar="NAME", help="The groups of this item stream, in place of scopes.")
@click.option("--counts", is_flag=True, help="Print the number of keys of each scope, too.")
@output_option()
def scopes(*, redis_url: str | None, namespace: str, stream: str | None, counts: bool, output: str | None) -> None:
    """Print the names of all scopes that have a key, sorted.

    \b
    --output text   a name on each line; the default
    --output table  the default with --counts
    --output jsonl  an object on each line
    --output json   a list of names; with --counts an object

    \b
    Example:
      motia-redis scopes
      motia-redis scopes --counts
      motia-redis scopes --stream todo --output json
    """  # noqa: D301

    async def work(state: StateManager) -> list[tuple[str, int | None]]:
        from motia_redis._store.stream_groups import StreamGroup  # noqa: PLC0415 - slow

        names = await state.list_groups(stream=stream)
        if not counts:
            return [(name, None) for name in names]
        return [(name, await state.count(name if stream is None else StreamGroup(stream, name))) for name in names]

    found = run_on_namespace(redis_url, namespace, work)
    _print_scopes(found, output or ("table" if counts else "text"))
    if not found:
        note(f"no {'scopes' if stream is None else 'groups'} in {place(redis_url, namespace)}")


def _print_scopes(found: Sequence[tuple[str, int | None]], output: str) -> None:
    from motia_redis._store.json_texts import quoted  # noqa: PLC0415 - slow

    has_counts = any(count is not None for _, count in found)
    if output == "table":
        head = ["SCOPE", "KEYS"] if has_counts else ["SCOPE"]
        table(head, [[escaped(name), count][: len(head)] for name, count in found], right=["KEYS"])
    elif output == "json":
        members = [f"{quoted(name)}:{count}" if has_counts else quoted(name) for name, count in found]
        print_lines([("{" + ",".join(members) + "}") if has_counts else ("[" + ",".join(members) + "]")])
    elif output == "jsonl":
        print_lines(json_line({"scope": name} | ({"keys": count} if has_counts else {})) for name, count in found)
    else:
        print_lines(f"{escaped(name)}\t{count}" if has_counts else escaped(name) for name, count in found)
