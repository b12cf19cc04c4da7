"""What an operator's program needs: status, checks of Redis, dead letters, settings, moving data, forgetting steps."""

from motia_redis._admin.dead_letters import DeadLetters
from motia_redis._admin.doctor import Examined, examine
from motia_redis._admin.exporting import Exported, export_values
from motia_redis._admin.importing import Imported, RefusedLine, import_values
from motia_redis._admin.letters import DeadLetter
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
    "Exported",
    "Finding",
    "Forgotten",
    "Imported",
    "RefusedLine",
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
    "export_values",
    "forget_step",
    "import_values",
    "read_status",
    "rename_step",
]
