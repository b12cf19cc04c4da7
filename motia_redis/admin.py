"""What an operator's program needs: status, checks of Redis, dead letters, settings, moving data, steps."""

from motia_redis._admin.announced import Attempted, SlowHandler
from motia_redis._admin.comparing import Compared
from motia_redis._admin.copying import CopyProgress, FinishedCopy, compare_copy, copy_changes, finish_copy
from motia_redis._admin.dead_letters import DeadLetters
from motia_redis._admin.doctor import Examination, Examined, examine
from motia_redis._admin.exporting import Exported, export_values
from motia_redis._admin.importing import Imported, RefusedLine, import_values
from motia_redis._admin.letters import DeadLetter
from motia_redis._admin.pausing import Paused, pause_step, resume_step
from motia_redis._admin.registry import Forgotten, Renamed, forget_step, rename_step
from motia_redis._admin.scheduled import Scheduled, ScheduledMessage
from motia_redis._admin.seeking import Sought, seek_step
from motia_redis._admin.settings import change_settings
from motia_redis._admin.status import FailingKey, Status, StepSchedule, StepStatus, StepVersion, WorkerStatus, read_status
from motia_redis._admin.topics import UnreadTopic
from motia_redis._store.settings import Settings
from motia_redis._transport.health import Finding

__all__ = [
    "Attempted",
    "Compared",
    "CopyProgress",
    "DeadLetter",
    "DeadLetters",
    "Examination",
    "Examined",
    "Exported",
    "FailingKey",
    "Finding",
    "FinishedCopy",
    "Forgotten",
    "Imported",
    "Paused",
    "RefusedLine",
    "Renamed",
    "Scheduled",
    "ScheduledMessage",
    "Settings",
    "SlowHandler",
    "Sought",
    "Status",
    "StepSchedule",
    "StepStatus",
    "StepVersion",
    "UnreadTopic",
    "WorkerStatus",
    "change_settings",
    "compare_copy",
    "copy_changes",
    "examine",
    "export_values",
    "finish_copy",
    "forget_step",
    "import_values",
    "pause_step",
    "read_status",
    "rename_step",
    "resume_step",
    "seek_step",
]
