"""Shared JSON state and state triggers for Python, on Redis."""

from motia_redis._steps.ambient import enqueue, state_manager, stateManager
from motia_redis._steps.application import Application
from motia_redis._steps.context import FlowContext, SyncFlowContext, TriggerInfo
from motia_redis._steps.definitions import step
from motia_redis._steps.http_options import QueryParam
from motia_redis._steps.inputs import ApiRequest, ApiResponse, CronTriggerInput, StateTriggerInput
from motia_redis._steps.loading import load_application
from motia_redis._steps.logs import logger
from motia_redis._steps.multi_trigger import multi_trigger_step
from motia_redis._steps.stream_triggers import StreamTriggerInput, stream
from motia_redis._steps.streams import Stream
from motia_redis._steps.triggers import api, cron, http, queue, state
from motia_redis._store.expiry import KEEP
from motia_redis._store.keyspace import Layout
from motia_redis._store.limits import Limits, Retention
from motia_redis._store.manager import StateManager
from motia_redis._store.reading import Entry
from motia_redis._version import __version__
from motia_redis._web.app import create_web_app
from motia_redis._worker.worker import Worker

__all__ = [
    "KEEP",
    "ApiRequest",
    "ApiResponse",
    "Application",
    "CronTriggerInput",
    "Entry",
    "FlowContext",
    "Layout",
    "Limits",
    "QueryParam",
    "Retention",
    "StateManager",
    "StateTriggerInput",
    "Stream",
    "StreamTriggerInput",
    "SyncFlowContext",
    "TriggerInfo",
    "Worker",
    "__version__",
    "api",
    "create_web_app",
    "cron",
    "enqueue",
    "http",
    "load_application",
    "logger",
    "multi_trigger_step",
    "queue",
    "state",
    "stateManager",
    "state_manager",
    "step",
    "stream",
]
