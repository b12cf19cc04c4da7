"""Run an administrative command on a namespace."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeVar

import click

from motia_redis._cli.options import CommandError, one_line_errors, state_manager

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from motia_redis._store.manager import StateManager

_T = TypeVar("_T")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def run_on_namespace(
    redis_url: str | None, namespace: str, work: Callable[[StateManager], Awaitable[_T]], *, must_exist: bool = True
) -> _T:
    """Call `work` with a manager of the namespace and return its result. On an error, end the process with exit code 2.

    With `must_exist`, a namespace that does not exist is an error, so that a mistyped name does not create a namespace.
    """

    async def run() -> _T:
        state = state_manager(redis_url, namespace)
        try:
            if must_exist:
                await _check_exists(state)
            return await work(state)
        finally:
            await state.close()

    # Suppress warnings about the server's settings: `doctor` prints them.
    logging.getLogger("motia_redis").addHandler(logging.NullHandler())
    with one_line_errors():
        return asyncio.run(run())
    raise AssertionError  # one_line_errors ends the process


async def _check_exists(state: StateManager) -> None:
    from motia_redis._admin.connections import open_router  # noqa: PLC0415 - slow to import: `--help` must answer at once
    from motia_redis._store.keyspace import layout_key  # noqa: PLC0415

    key = layout_key(state.namespace)
    async with open_router(state, f"namespace {state.namespace!r}") as router:
        if not await router.execute(key, "EXISTS", key):
            raise CommandError(
                f"there is no namespace {state.namespace!r} in this Redis: no application has connected with that name; "
                "check --namespace and --redis"
            )
