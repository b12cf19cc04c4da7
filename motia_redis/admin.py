"""What an operator's program needs: status, checks of Redis, dead letters, settings, and forgetting removed steps."""

from motia_redis._admin.dead_letters import DeadLetter, DeadLetters
from motia_redis._admin.doctor import Examined, examine
from motia_redis._admin.registry import Forgotten, Renamed, forget_step, rename_step
from motia_redis._admin.scheduled import Scheduled, ScheduledMessage
from motia_redis._admin.settings import change_settings
from motia_redis._admin.status import Status, StepSchedule, StepStatus, StepVersion, WorkerStatus, read_status
from motia_redis._admin.topics import UnreadTopic
from motia_redis._store.settings import Settings
from motia_redis._transport.health import Finding

__all__ = [
    "DeadLetter",
    "DeadLetters",
    "Examined",
    "Finding",
    "Forgotten",
    "Renamed",
    "Scheduled",
    "ScheduledMessage",
    "Settings",
    "Status",
    "StepSchedule",
    "StepStatus",
    "StepVersion",
    "UnreadTopic",
    "WorkerStatus",
    "change_settings",
    "examine",
    "forget_step",
    "read_status",
    "rename_step",
]
