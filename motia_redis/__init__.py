"""Shared JSON state and state triggers for Python, on Redis."""

from motia_redis.manager import Entry, StateManager, stateManager, state_manager

__all__ = ["Entry", "StateManager", "stateManager", "state_manager"]
