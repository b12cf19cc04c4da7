"""The house's plan: modules import in one direction, and stay of a size one can read."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "motia_redis"
#: From the roof down: a module imports only from floors below its own.
FLOORS = [
    {"__init__", "__main__", "cli"},
    {"admin_cli"},
    {"cli_options", "cli_output"},
    {"worker", "web", "status", "dead_letters", "doctor"},
    {"registry"},
    {"reader"},
    {"dispatcher", "leases", "acknowledger"},
    {"subscriptions", "application"},
    {"definitions", "context", "events"},
    {"invocation", "logs"},
    {"manager", "inputs"},
    {"patch", "mutations", "scans"},
    {"retries"},
    {"sessions", "durability"},
    {"endpoint"},
    {"router", "keyspace", "codec", "loader", "error_codes", "embedded", "health"},
    {"failures"},
    {"multiplexing", "refusals"},
    {"limits", "urls"},
    {"errors", "_tracing"},
    {"_ids"},
]


def imported(path: Path) -> set[str]:
    """Return the modules of ours that a module imports when it runs (not those for types only)."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "motia_redis":
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("motia_redis."):
            last = (node.module or "").split(".")[-1]
            found |= {name.name for name in node.names} if last.startswith("_") and last not in ("_ids", "_tracing") else {last}
    return found


def modules() -> list[Path]:
    """Return all modules of the package, those of rooms included."""
    return [path for path in PACKAGE.rglob("*.py") if path.parent == PACKAGE or path.name != "__init__.py"]


def test_every_module_has_its_floor() -> None:
    names = {path.stem for path in modules()}
    assert names == set().union(*FLOORS)


def test_imports_point_one_way() -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    upward = [
        f"{path.stem} imports {name}"
        for path in sorted(modules())
        for name in sorted(imported(path))
        if floor[name] <= floor[path.stem] and path.stem != "__main__"
    ]
    assert upward == []


def test_no_module_has_the_name_of_an_exported_function() -> None:
    assert not {"state", "step", "http", "queue", "enqueue", "logger"} & {path.stem for path in modules()}


def test_rooms_stay_small() -> None:
    long = {path.name: lines for path in modules() if (lines := len(path.read_text().splitlines())) > 400}
    assert long == {}
