"""Decode what workers announce of themselves in their heartbeats."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from motia_redis._steps.wants import Wants

if TYPE_CHECKING:
    from collections.abc import Mapping

_WORKER = re.compile(rb"(\d{1,18}) (.*)", re.DOTALL)  # as lua/heartbeat.lua writes it: expiry, description


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowHandler:
    """Describe a handler that has run for more than 5 s, as its worker's last heartbeat named it."""

    step: str
    event: dict[str, str]  #: what it handles: `scope` and `key`, `topic` and `key`, `schedule`, or `stream`, `group` and `item`
    attempt: int  #: 1 for the first
    seconds: float  #: for which it had run at the heartbeat

    @property
    def subject(self) -> str:
        """Return `event` as one text, such as "scope orders key 7"."""
        return subject(self.event)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempted:
    """Count the attempts of one worker at the events of one step, since its start."""

    handled: int  #: those that succeeded
    failed: int  #: those after which another one follows, or a dead letter


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """Describe a worker, as the worker announced itself."""

    id: str
    host: str
    pid: int
    version: str  #: of the library
    steps: Mapping[str, Wants]  #: what the worker's version of each step wants
    lease: float  #: seconds without a heartbeat after which the worker is taken for dead
    expiry: int  #: when that is, Unix milliseconds
    has_left: bool  #: it ended as it should
    counts: Mapping[str, Attempted]  #: by step, since the worker's start; steps without attempts are left out
    watches: int  #: watches and mirrors that its manager has open
    slow: tuple[SlowHandler, ...]  #: handlers that run for long

    def heartbeat_age(self, now: int) -> float:
        """Return the seconds from the last heartbeat to `now`, Unix milliseconds of the server."""
        return max(0.0, (now - self.expiry) / 1000 + self.lease)


def subject(event: Mapping[str, str]) -> str:
    """Return what an event is about as one text."""
    return " ".join(f"{name} {text}" for name, text in event.items()) or "an event that was trimmed"


def decode_workers(fields: Mapping[bytes, bytes]) -> list[WorkerInfo]:
    """Return the workers on record, that which ends, or ended, last at the end."""
    workers = [_decode_worker(field, value) for field, value in fields.items()]
    return sorted((known for known in workers if known is not None), key=lambda known: known.expiry)


def _decode_worker(field: bytes, value: bytes) -> WorkerInfo | None:
    """Return the worker of one field. Return None if a worker does not write such a field."""
    announced = _WORKER.fullmatch(value)
    if announced is None:
        return None
    try:
        worker, description = field.decode(), orjson.loads(announced[2])
    except ValueError:  # not UTF-8, or not JSON
        return None
    match description:
        case {
            "host": str(host),
            "pid": int(pid),
            "version": str(version),
            "lease": int() | float() as lease,
            "steps": dict(steps),
        }:
            decoded = {step: Wants.decode(value) for step, value in steps.items()}
            known = {step: wants for step, wants in decoded.items() if wants is not None}
            if len(known) < len(steps):
                return None
            return WorkerInfo(
                id=worker,
                host=host,
                pid=pid,
                version=version,
                steps=known,
                lease=lease,
                expiry=int(announced[1]),
                has_left=description.get("left") is True,
                counts=_decode_counts(description.get("counts", {})),
                watches=watches if isinstance(watches := description.get("watches", 0), int) else 0,
                slow=_decode_slow(description.get("slow", [])),
            )
    return None


def _decode_slow(described: Any) -> tuple[SlowHandler, ...]:
    """Return the handlers that a heartbeat names, without what no worker writes."""
    found = []
    for each in described if isinstance(described, list) else []:
        match each:
            case {"step": str(step), "event": dict(event), "attempt": int(attempt), "seconds": int() | float() as seconds}:
                texts = {str(name): str(text) for name, text in event.items()}
                found.append(SlowHandler(step=step, event=texts, attempt=attempt, seconds=seconds))
    return tuple(found)


def _decode_counts(described: Any) -> dict[str, Attempted]:
    """Return the attempts that a heartbeat tells, without what no worker writes."""
    found = {}
    for step, counts in described.items() if isinstance(described, dict) else []:
        match counts:
            case [int(handled), int(failed)]:
                found[str(step)] = Attempted(handled=handled, failed=failed)
    return found
