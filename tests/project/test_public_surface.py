"""The public surface: what stands in `__all__` of the modules without an underscore, and nothing else."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import motia_redis
from motia_redis._steps.logs import LOGGER_NAME

PUBLIC = {
    "motia_redis": [
        "ApiRequest", "ApiResponse", "Application", "CronTriggerInput", "Entry", "FlowContext", "KEEP", "Layout", "Limits",
        "QueryParam", "Retention", "StateManager", "StateTriggerInput", "Stream", "StreamTriggerInput", "SyncFlowContext",
        "TriggerInfo", "Worker", "__version__", "api", "create_web_app", "cron", "enqueue", "http", "load_application",
        "logger", "multi_trigger_step", "queue", "state", "stateManager", "state_manager", "step", "stream",
    ],
    "motia_redis.admin": [
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
    ],
    "motia_redis.console": ["create_console_app"],
    "motia_redis.errors": [
        "BadIndex", "CorruptValue", "DeadLetterMissing", "DifferentTags", "EventLoopRunning", "HistoryForked", "HistoryGone",
        "IdempotencyKeyReused", "InvalidCursor", "InvalidName", "InvalidOperation", "InvalidPointer", "InvalidTime",
        "InvalidValue", "KeyMissing", "LayoutMismatch", "MirrorTooLarge", "NotDurable", "NumberOverflow", "OutcomeUnknown",
        "PathMissing", "RevisionConflict", "SchemaMismatch", "SettingsMismatch", "Stale", "StateError",
        "StateUnavailable", "StepError", "StepInUse", "StepMissing", "TestFailed", "TooDeep", "TooManyDelayed", "TooManyKeys",
        "TooMuchWork", "TransactionFailed", "TransactionMisused", "TransactionTooLarge", "UpdateFailed", "ValueTooLarge",
        "WatchMisused", "WatchOverflow", "WrongKind",
    ],
    "motia_redis.sync": [
        "Mirror", "StateManager", "Stream", "Transaction", "TypedScope", "Watch", "stateManager", "state_manager",
    ],
    "motia_redis.telemetry": ["disable", "enable", "observe"],
    "motia_redis.testing": [
        "App", "HandlerRun", "MakeApp", "Message", "Part", "application", "run_handler", "server_url", "stop_server",
    ],
    "motia_redis.types": [
        "ApiCondition", "ApiMiddleware", "Bookmark", "Change", "ChangeReason", "ChangeType", "Condition", "Credentials",
        "CronTrigger", "DeleteReason", "Durability", "FieldMerge", "FieldNumber", "FieldNumberValue", "FieldOperation",
        "FieldRemove", "FieldValue", "HttpMethod", "HttpTrigger", "Keep", "Logger", "Mirror", "Missed",
        "MultiTriggerStepBuilder", "Operation",
        "PatchMerge", "PatchMove", "PatchNumber", "PatchOperation", "PatchRemove", "PatchValue", "QueueTrigger",
        "StateEventType", "StateTrigger", "Step", "StepConfig", "StepDefinition", "StreamCondition", "StreamEvent",
        "StreamEventType", "StreamGroup", "StreamTrigger", "Synced", "Transaction", "TransactionInfo", "Trigger", "TriggerType",
        "Ttl", "TypedScope", "Watch", "WatchItem",
    ],
}  # fmt: skip
NAMES = [(module, name) for module, names in PUBLIC.items() for name in names]

# The first words of our reference docstrings; a new one is added here when it is a verb.
VERBS = {
    "Add", "Append", "Apply", "Bind", "Call", "Close", "Compare", "Connect", "Consume", "Copy", "Create", "Decrement",
    "Delete", "Describe", "Do", "End", "Fire", "Give", "Handle", "Have", "Hold", "Import", "Increment", "Let", "Limit",
    "Log", "Make", "Merge", "Move", "Read", "Remove", "Report", "Require", "Retry", "Return", "Send", "Set", "Show", "Start",
    "Stop", "Store", "Tell", "Wait", "Write", "Yield",
}  # fmt: skip
# What public methods return, and a class that only the package creates takes, without a public name of its own.
INTERNAL = {
    ("StateManager.connect", "Keyspace"),
    ("StateManager.open_router", "Router"),
    ("sync.StateManager.connect", "Keyspace"),
    ("Transaction", "ScopeTtls"),
    ("Change", "Coder"),
    ("Change", "CursorMaker"),
    ("Change", "Event"),
    ("Mirror", "Coder"),
    ("TypedScope", "Scoping"),
    ("TypedScope.using", "Scoping"),
    ("sync.TypedScope", "Scoping"),
    ("sync.TypedScope.using", "Scoping"),
    ("Watch", "Coder"),
    ("Watch", "Retries"),
    ("Watch", "Selection"),
    ("Watch", "Sessions"),
    ("Watch", "WatchOptions"),
}


def modules(*, private: bool) -> list[str]:
    """Return the modules below the package that are private, or those that are not."""
    found = [info.name for info in pkgutil.walk_packages(motia_redis.__path__, "motia_redis.")]
    return [name for name in found if any(part.startswith("_") for part in name.split(".")) == private]


def objects() -> dict[str, Any]:
    """Return the public functions and classes, and the public methods of the classes, by name."""
    found: dict[str, Any] = {}
    for module, name in NAMES:
        value = getattr(importlib.import_module(module), name)
        name = f"sync.{name}" if module == "motia_redis.sync" else name  # noqa: PLW2901 - its classes have the names of others
        if inspect.isclass(value) or inspect.isfunction(value):
            found[name] = value
        if inspect.isclass(value):
            members = {key: member for base in value.__mro__ if ours(base) for key, member in vars(base).items()}
            found |= {f"{name}.{key}": m for key, m in members.items() if key[0] != "_" and inspect.isfunction(m)}
    return found


def ours(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).startswith("motia_redis")


def annotations(value: Any) -> dict[str, Any]:
    """Return the annotations of a function, or of a class's fields and constructor."""
    own = dict(getattr(value, "__annotations__", {}))
    if inspect.isclass(value) and inspect.isfunction(value.__init__):
        own |= value.__init__.__annotations__
    return {name: annotation for name, annotation in own.items() if not name.startswith("_")}


@pytest.mark.parametrize("module", PUBLIC)
def test_all_of_a_public_module_is_what_is_listed_here(module: str) -> None:
    exported = importlib.import_module(module).__all__
    assert sorted(exported) == PUBLIC[module]
    assert len(set(exported)) == len(exported)


def test_every_module_without_an_underscore_is_listed_here() -> None:
    assert {"motia_redis", *modules(private=False)} == set(PUBLIC)


@pytest.mark.parametrize(("module", "name"), NAMES, ids=lambda part: part)
def test_public_name_is_no_module(module: str, name: str) -> None:
    assert not inspect.ismodule(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("name", objects())
def test_public_name_has_a_docstring_and_that_of_a_function_starts_with_a_verb(name: str) -> None:
    is_class = inspect.isclass(objects()[name])
    text = vars(objects()[name]).get("__doc__") if is_class else objects()[name].__doc__
    assert text, "it has no docstring"
    assert is_class or text.split()[0].rstrip(":,;") in VERBS, text.splitlines()[0]


def test_classes_in_public_signatures_have_a_public_name() -> None:
    public = {name for names in PUBLIC.values() for name in names}
    private = {
        name
        for module in modules(private=True)
        for name, value in vars(importlib.import_module(module)).items()
        if inspect.isclass(value) and ours(value) and name not in public
    }
    used = {
        (name, word)
        for name, value in objects().items()
        for annotation in annotations(value).values()
        for word in re.findall(r"\w+", str(annotation))
        if word in private
    }
    assert used <= INTERNAL


def test_importing_the_package_does_not_import_the_web_server_the_command_or_what_checks_types() -> None:
    program = "import sys, motia_redis, motia_redis.types; print(*sorted(m.split('.')[0] for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert not {"starlette", "uvicorn", "click", "anyio", "pydantic", "cronsim", "jsonschema_rs"} & set(done.stdout.split())


def test_version_is_the_one_that_the_command_prints() -> None:
    command = [sys.executable, "-m", "motia_redis", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"motia-redis {motia_redis.__version__}\n"
    assert re.fullmatch(r"\d+\.\d+\.\d+", motia_redis.__version__)


def test_loggers_have_the_names_of_the_docs() -> None:
    """Records name what users know. A private module may move."""
    page = Path("docs/operating.md").read_text()
    documented = set(re.findall(r"^\| `(motia_redis[.a-z]*)` \|", page, re.MULTILINE))
    used = set()
    for path in Path("motia_redis").rglob("*.py"):
        for call in re.findall(r"getLogger\((.*?)\)", path.read_text()):
            name = LOGGER_NAME if call == "LOGGER_NAME" else call.strip('"')
            assert name in documented or name in ("", "uvicorn"), f"{path}: getLogger({call})"
            used.add(name)
    assert documented == used - {"", "uvicorn"}
