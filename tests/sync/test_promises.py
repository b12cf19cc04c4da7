"""The sync classes have the names, arguments and promises of the async ones."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

import motia_redis
from motia_redis import sync, types

PAIRS = {
    "StateManager": (motia_redis.StateManager, sync.StateManager),
    "Transaction": (types.Transaction, sync.Transaction),
    "TypedScope": (types.TypedScope, sync.TypedScope),
    "Stream": (motia_redis.Stream, sync.Stream),
    "Watch": (types.Watch, sync.Watch),
    "Mirror": (types.Mirror, sync.Mirror),
}
#: What only the async classes have: a router belongs to an event loop; a watch has methods for its items and for its reader.
ASYNC_ONLY = {"StateManager.open_router", "Watch.waiting", "Watch.cursor_at"}
#: Attributes of the async manager that are properties here, and views that a thread must copy.
SYNC_ONLY = {"StateManager.limits", "StateManager.durability", "Mirror.items", "Mirror.values"}
#: How words about tasks and event loops read in a program without them.
WORDS = [
    ("async with", "with"),
    ("async for", "for"),
    ("await ", ""),
    ("any task", "any thread"),
    ("whatever task", "whatever thread"),
    ("One task", "One thread"),
    ("another task", "another thread"),
    ("of the running event loop", "of this process"),
    ("in the running event loop ", ""),
    ("for each loop", "for each process"),
    ("an event loop share", "a manager in a process share"),
    ("in a task of each event loop that connects", "in each process that connects"),
    ("in this event loop", "in the thread of the event loop"),
    ("returns the new one; it may be async.", "returns the new one. It runs in the calling thread."),
    ("It returns the new value, and may be async.", "It runs in the calling thread and returns the new value."),
    (" when no other event loop uses this manager", ". At exit all connections are closed, also without this call"),
    ("It must not block.", "It must not block, and so not call a `StateManager`."),
    ("Redis.\n", "Redis, in code without an event loop.\n"),
    ("as flags:`.", "as flags:`, and read it in any thread."),
    ("is not shown.", "is not shown. The keys, values and items are those of the moment at which they are asked for."),
    (
        "Any number of tasks and event loops may use it.",
        (
            "Any number of threads may use it; they share its connections, which belong to one event loop in a thread of its "
            "own. A forked child connects anew. In a thread whose event loop runs, all calls raise EventLoopRunning: use "
            "`motia_redis.StateManager` there. Ctrl-C cancels a call that waits: its change may have been made, or not."
        ),
    ),
]


def members(kind: type[Any]) -> dict[str, Any]:
    """Return the public methods and properties of a class that this package defines."""
    return {
        name: member
        for base in reversed(kind.__mro__)
        if base.__module__.startswith("motia_redis")
        for name, member in vars(base).items()
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
    }


def signature(function: Any) -> inspect.Signature:
    """Return a signature as a program without an event loop sees it: its functions are not async."""
    found = inspect.signature(function)
    result = re.sub(r"^Coroutine\[Any, Any, (.*)\]$", r"\1", str(found.return_annotation))
    result = re.sub(r"^(builtins\.)|^Async(?=Iterator)", "", result)
    return found.replace(
        return_annotation=result,
        parameters=[p.replace(annotation=str(p.annotation).replace("T | Awaitable[T]", "T")) for p in found.parameters.values()],
    )


def promise(value: Any) -> str:
    return " ".join((inspect.getdoc(value) or "").split())


def in_plain_words(value: Any) -> str:
    text = inspect.getdoc(value) or ""
    for before, after in WORDS:
        text = re.sub(r"\s+".join(map(re.escape, before.split(" "))), after.replace("\\", r"\\"), text, count=0)
    return " ".join(text.split())


MEMBERS = [(name, member) for name, (ours, _) in PAIRS.items() for member in members(ours)]


@pytest.mark.parametrize("name", PAIRS)
def test_classes_have_the_same_members(name: str) -> None:
    ours, plain = (set(members(kind)) for kind in PAIRS[name])
    assert {f"{name}.{member}" for member in ours - plain} <= ASYNC_ONLY
    assert {f"{name}.{member}" for member in plain - ours} <= SYNC_ONLY


@pytest.mark.parametrize(("name", "member"), [pair for pair in MEMBERS if ".".join(pair) not in ASYNC_ONLY])
def test_members_have_the_same_arguments_and_promises(name: str, member: str) -> None:
    ours, plain = (members(kind)[member] for kind in PAIRS[name])
    assert type(ours) is type(plain)
    if inspect.isfunction(ours):
        assert not inspect.iscoroutinefunction(plain)
        assert signature(plain) == signature(ours)
    assert promise(plain) == in_plain_words(ours)


@pytest.mark.parametrize("name", PAIRS)
def test_classes_have_the_same_promises(name: str) -> None:
    ours, plain = PAIRS[name]
    assert promise(plain) == in_plain_words(ours)


def test_managers_take_the_same_arguments() -> None:
    assert signature(sync.StateManager.__init__) == signature(motia_redis.StateManager.__init__)
