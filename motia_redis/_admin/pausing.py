"""Pause steps, and let them go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from motia_redis._admin import registry
from motia_redis._admin.connections import open_namespace
from motia_redis._scripts import administration
from motia_redis.errors import StepMissing

if TYPE_CHECKING:
    from motia_redis._admin.registry import Registry
    from motia_redis._store.manager import StateManager

_NAMED = 20  # steps that an error names


@dataclass(frozen=True, slots=True)
class Paused:
    """Hold the result of `pause_step` and `resume_step`."""

    changed: bool  #: False: the step was paused already, or was not paused
    since: float | None  #: since when the step had been paused before the call, Unix seconds; None: it was not


async def pause_step(state: StateManager, name: str) -> Paused:
    """Let the workers begin no handler of a step until `resume_step`, in all processes of the namespace.

    Running handlers end, and their outcome is recorded. The step keeps its place, lanes stay with their workers, and nothing of
    the step is read. Pauses of failed attempts go on; the attempts wait. Workers follow with their next heartbeat, half a second
    by default. A pause lasts through restarts of workers and of Redis. Events wait as for a step without workers: within
    `Retention`, whose hard cap holds. Cron triggers miss their times, as their `missed` says. Idempotent. Cost: two round trips;
    the number of steps' lanes. Raises StepMissing, which names the known steps, and StateUnavailable.
    """
    return await _change(state, name, "pause")


async def resume_step(state: StateManager, name: str) -> Paused:
    """Let the workers handle the events of a paused step again, with their next heartbeat.

    Idempotent. Cost: two round trips; the number of steps' lanes. Raises StepMissing, which names the known steps, and
    StateUnavailable.
    """
    return await _change(state, name, "resume")


async def _change(state: StateManager, name: str, mode: administration.PauseMode) -> Paused:
    async with open_namespace(state, f"step {name!r}") as (router, keyspace):
        check_is_known(state, await registry.read(router, keyspace), name)
        changed, since = await administration.pause_step(router, keyspace.workers, step=name, mode=mode)
    return Paused(changed, since / 1000 if since else None)


def check_is_known(state: StateManager, known: Registry, name: str) -> None:
    """Raise StepMissing, which names the steps of the namespace, if a step has no lanes, no workers and is not paused."""
    names = {step for step, _ in known.lanes} | known.paused.keys() | known.last_versions.keys()
    if name in names:
        return
    listed = ", ".join(map(repr, sorted(names)[:_NAMED])) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    raise StepMissing(f"there is no step {name!r} in namespace {state.namespace!r}; steps: {listed or 'none'}")
