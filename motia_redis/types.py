"""Types for annotations: update operations, step configurations, triggers and the choices that arguments accept."""

from motia_redis._steps.context import TriggerType
from motia_redis._steps.definitions import Step, StepConfig, StepDefinition
from motia_redis._steps.http_options import ApiCondition, ApiMiddleware
from motia_redis._steps.inputs import StateEventType, StreamEventType
from motia_redis._steps.logs import Logger
from motia_redis._steps.multi_trigger import MultiTriggerStepBuilder
from motia_redis._steps.stream_triggers import StreamCondition, StreamEvent, StreamTrigger
from motia_redis._steps.triggers import (
    Condition,
    CronTrigger,
    HttpMethod,
    HttpTrigger,
    Missed,
    QueueTrigger,
    StateTrigger,
    Trigger,
)
from motia_redis._store.events import DeleteReason, TransactionInfo
from motia_redis._store.expiry import Keep, Ttl
from motia_redis._store.mirror import Mirror
from motia_redis._store.stream_groups import StreamGroup
from motia_redis._store.transactions import Transaction
from motia_redis._store.typed_scopes import TypedScope
from motia_redis._store.types import (
    Durability,
    FieldMerge,
    FieldNumber,
    FieldNumberValue,
    FieldOperation,
    FieldRemove,
    FieldValue,
    Operation,
    PatchMerge,
    PatchMove,
    PatchNumber,
    PatchOperation,
    PatchRemove,
    PatchValue,
)
from motia_redis._store.watch import Watch
from motia_redis._store.watch_items import Bookmark, Change, ChangeReason, ChangeType, Synced, WatchItem
from motia_redis._transport.endpoint import Credentials

__all__ = [
    "ApiCondition",
    "ApiMiddleware",
    "Bookmark",
    "Change",
    "ChangeReason",
    "ChangeType",
    "Condition",
    "Credentials",
    "CronTrigger",
    "DeleteReason",
    "Durability",
    "FieldMerge",
    "FieldNumber",
    "FieldNumberValue",
    "FieldOperation",
    "FieldRemove",
    "FieldValue",
    "HttpMethod",
    "HttpTrigger",
    "Keep",
    "Logger",
    "Mirror",
    "Missed",
    "MultiTriggerStepBuilder",
    "Operation",
    "PatchMerge",
    "PatchMove",
    "PatchNumber",
    "PatchOperation",
    "PatchRemove",
    "PatchValue",
    "QueueTrigger",
    "StateEventType",
    "StateTrigger",
    "Step",
    "StepConfig",
    "StepDefinition",
    "StreamCondition",
    "StreamEvent",
    "StreamEventType",
    "StreamGroup",
    "StreamTrigger",
    "Synced",
    "Transaction",
    "TransactionInfo",
    "Trigger",
    "TriggerType",
    "Ttl",
    "TypedScope",
    "Watch",
    "WatchItem",
]
