"""A program without an event loop as a user writes it: mypy and pyright, both strict, must accept every line of it."""

from __future__ import annotations

from typing import Any, assert_type

from motia_redis import KEEP, Entry, Layout
from motia_redis.errors import EventLoopRunning, StateError
from motia_redis.sync import Mirror, StateManager, Transaction, Watch, state_manager, stateManager
from motia_redis.types import Bookmark, Change, Synced


def add_one(value: int | None) -> int:
    return (value or 0) + 1


def change() -> None:
    with StateManager("redis://localhost", layout=Layout(partitions=1), durability="fsynced") as state:
        assert_type(state, StateManager)
        value = state.update("users", "ann", [{"op": "increment", "path": "/n", "value": 1}], strict=True, ttl=KEEP)
        assert_type(value, Any)
        entry = state.entry("users", "ann")
        assert_type(entry, Entry | None)
        state.set("users", "ann", 1, if_revision=entry.revision if entry else None, idempotency_key="a")
        assert_type(state.modify("users", "ann", add_one, attempts=3), Any)
        assert_type(state.expire("users", "ann", 60), bool)
        assert_type(state.get_many("users", ["ann"]), dict[str, Any])
        assert_type(state.list_groups(), list[str])
        assert_type(state.count("users"), int)
        for key, _ in state.scan("users"):
            assert_type(key, str)
        with state.transaction(idempotency_key="b") as tx:
            assert_type(tx, Transaction)
            tx.check("{a}/users", "ann", None)
            tx.enqueue("{a}/mail", {"to": "ann"}, key="ann")
        assert_type(tx.revisions, dict[tuple[str, str], str | None])
        with state.watch("users", start="snapshot", on_gap="resync") as watch:
            assert_type(watch, Watch)
            for item in watch:
                match item:
                    case Change():
                        print(item.key, item.value)
                    case Synced() | Bookmark():
                        assert_type(item.cursor, str)
        with state.mirror("flags", max_age=5) as flags:
            assert_type(flags, Mirror)
            assert_type(flags.get("beta"), Any | None)
            flags.reached("1-1")
        state.clear("users")
        assert_type(state.enqueue("mail", {"to": "ann"}, delay=1.0), str)


def fails() -> str:
    try:
        return str(stateManager.get("users", "ann") or state_manager.namespace)
    except EventLoopRunning:
        return "use await"
    except StateError as error:
        return str(error)
