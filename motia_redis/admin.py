"""What an operator's program needs: status, checks of Redis, dead letters, settings, and forgetting removed steps."""

from motia_redis._admin.dead_letters import DeadLetter, DeadLetters
from motia_redis._admin.doctor import Examined, examine
from motia_redis._admin.registry import Forgotten, forget_step
from motia_redis._admin.settings import change_settings
from motia_redis._admin.status import Status, StepStatus, WorkerStatus, read_status
from motia_redis._store.settings import Settings
from motia_redis._transport.health import Finding

__all__ = [
    "DeadLetter",
    "DeadLetters",
    "Examined",
    "Finding",
    "Forgotten",
    "Settings",
    "Status",
    "StepStatus",
    "WorkerStatus",
    "change_settings",
    "examine",
    "forget_step",
    "read_status",
]
