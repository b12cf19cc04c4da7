"""Complete scopes and keys in the shell, if Redis answers fast."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import click

    from motia_redis._store.manager import StateManager

_PATIENCE = 1.0  # seconds: who presses Tab does not wait for longer
_MOST = 200  # names that are offered


def complete_scopes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Return the scopes that begin with what was typed."""

    async def read(state: StateManager) -> list[str]:
        return [scope for scope in await state.list_groups() if scope.startswith(incomplete)]

    return _ask(ctx, read)


def complete_keys(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Return keys of the scope that begin with what was typed."""
    scope = ctx.params.get("scope")

    async def read(state: StateManager) -> list[str]:
        from motia_redis._store.json_texts import scan_keys  # noqa: PLC0415 - slow

        found: dict[str, None] = {}
        async for key in scan_keys(state, str(scope), incomplete):
            found[key] = None
            if len(found) >= _MOST:
                break
        return sorted(found)

    return _ask(ctx, read) if scope else []


def _ask(ctx: click.Context, read: Callable[[StateManager], Awaitable[list[str]]]) -> list[CompletionItem]:
    """Return names as completions; none if something is wrong: the command itself will say what."""
    from motia_redis._cli.options import state_manager  # noqa: PLC0415 - slow
    from motia_redis._transport.endpoint import unused_directory  # noqa: PLC0415

    async def run() -> list[str]:
        state = state_manager(ctx.params.get("redis_url"), ctx.params.get("namespace") or "motia")
        if unused_directory(state.url):
            return []
        try:
            return await asyncio.wait_for(read(state), _PATIENCE)
        finally:
            await state.close()

    logging.getLogger("motia_redis").addHandler(logging.NullHandler())
    try:
        names = asyncio.run(run())
    except Exception:  # noqa: BLE001 - a message would stand in the middle of what is typed
        return []
    return [CompletionItem(name) for name in names[:_MOST] if name.isprintable()]
