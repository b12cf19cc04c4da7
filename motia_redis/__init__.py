"""Shared JSON state and state triggers for Python, on Redis."""

from motia_redis._steps.context import FlowContext, enqueue
from motia_redis._steps.definitions import http, queue, state, step
from motia_redis._steps.inputs import ApiRequest, ApiResponse, StateTriggerInput
from motia_redis._steps.logs import logger
from motia_redis._store.manager import Entry, StateManager, state_manager, stateManager
from motia_redis._worker.worker import Worker

__all__ = [
    "ApiRequest",
    "ApiResponse",
    "Entry",
    "FlowContext",
    "StateManager",
    "StateTriggerInput",
    "Worker",
    "enqueue",
    "http",
    "logger",
    "queue",
    "state",
    "stateManager",
    "state_manager",
    "step",
]
