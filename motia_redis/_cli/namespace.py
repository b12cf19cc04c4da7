"""Run an administrative command on a namespace."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeVar

import click

from motia_redis._cli.options import CommandError, exit_code_of, one_line_errors, state_manager
from motia_redis.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from motia_redis._store.manager import StateManager

_T = TypeVar("_T")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def run_on_namespace(
    redis_url: str | None,
    namespace: str,
    work: Callable[[StateManager], Awaitable[_T]],
    *,
    must_exist: bool = True,
    creates: bool | None = None,
) -> _T:
    """Call `work` with a manager of the namespace and return its result. On an error, end the process with its exit code.

    With `must_exist`, a namespace that does not exist is an error, so that a mistyped name does not create a namespace. An
    embedded server that does not exist is always one. A command with the option `--create` passes it as `creates`: True allows
    both. Errors name the namespace and the Redis.
    """

    async def run() -> _T:
        state = state_manager(redis_url, namespace)
        hint = "" if creates is None else ", or create it with --create"
        if not creates:
            _check_is_used(state.url, hint)
        try:
            if must_exist and not creates:
                await _check_exists(state, hint)
            return await work(state)
        finally:
            await state.close()

    # Suppress warnings about the server's settings: `doctor` prints them.
    logging.getLogger("motia_redis").addHandler(logging.NullHandler())
    with one_line_errors():
        try:
            return asyncio.run(run())
        except StateError as error:
            text, shown = str(error), redacted(redis_url)
            text = text if shown in text else f"{text} ({place(redis_url, namespace)})"
            raise CommandError(text, exit_code_of(error)) from error
    raise AssertionError  # one_line_errors ends the process


def place(redis_url: str | None, namespace: str) -> str:
    """Name the namespace and the Redis that a command looks at."""
    return f"namespace {namespace!r} of {redacted(redis_url)}"


def redacted(redis_url: str | None) -> str:
    """Return the URL that a command uses, without secrets."""
    from motia_redis._transport import urls  # noqa: PLC0415 - slow to import: `--help` must answer at once

    return urls.redact(urls.DEFAULT_URL if redis_url is None else redis_url)


def _check_is_used(url: str, hint: str) -> None:
    from motia_redis._transport.endpoint import unused_directory  # noqa: PLC0415 - slow

    if directory := unused_directory(url):
        raise CommandError(
            f"there is no embedded Redis in {directory.absolute()}: no application has used it; "
            f"run the command in the folder of the application, or name its Redis by --redis or $MOTIA_REDIS_URL{hint}"
        )


async def _check_exists(state: StateManager, hint: str) -> None:
    from motia_redis._admin.connections import open_router  # noqa: PLC0415 - slow to import: `--help` must answer at once
    from motia_redis._store.keyspace import layout_key  # noqa: PLC0415

    key = layout_key(state.namespace)
    async with open_router(state, f"namespace {state.namespace!r}") as router:
        if not await router.execute(key, "EXISTS", key):
            raise CommandError(
                f"there is no {place(state.url, state.namespace)}: no application has connected with that name; "
                f"check --namespace and --redis{hint}"
            )
