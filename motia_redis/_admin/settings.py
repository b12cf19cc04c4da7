"""Change the settings that all processes of a namespace share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from motia_redis._admin.connections import open_namespace
from motia_redis._store import namespaces

if TYPE_CHECKING:
    from motia_redis._store.manager import StateManager
    from motia_redis._store.settings import Settings


async def change_settings(state: StateManager, **changes: Any) -> Settings:
    """Store other settings for the namespace and return all settings. `changes` are `deadline` and fields of `Retention`.

    Processes take them over when they connect, and when they look at the layout again. A process that was given other settings
    explicitly raises SettingsMismatch when it connects. Cost: two round trips. Raises StateError for a setting that does not
    exist or is not valid, LayoutMismatch, StateUnavailable.
    """
    changed = (await state.settings()).replace(changes)
    async with open_namespace(state, "settings") as (router, keyspace):
        stored = await namespaces.change_settings(router, keyspace.namespace, changed)
    await state.check_layout()
    return stored
