"""`StateManager` for code without an event loop: scripts, Flask, Django, Celery, threads."""

from motia_redis._steps.streams import SyncStream as Stream
from motia_redis._sync.manager import StateManager, state_manager, stateManager
from motia_redis._sync.mirror import Mirror
from motia_redis._sync.transactions import Transaction
from motia_redis._sync.typed_scopes import TypedScope
from motia_redis._sync.watch import Watch

__all__ = ["Mirror", "StateManager", "Stream", "Transaction", "TypedScope", "Watch", "stateManager", "state_manager"]
