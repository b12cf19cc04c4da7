"""Retry and drop dead letters whose content was read before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from motia_redis._admin import registry
from motia_redis._admin.letters import missing, place_of
from motia_redis._scripts import administration
from motia_redis._store import effects
from motia_redis._store.keyspace import is_cron
from motia_redis.errors import DeadLetterMissing, StepMissing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from motia_redis._admin.letters import DeadLetter, LetterPlace
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._transport.router import Router

#: Why a letter was not moved: somebody else has retried or dropped it; its event was trimmed before the step gave up; the step
#: has no consumer group; no trigger of the running versions wants the event.
Reason: TypeAlias = Literal["gone", "empty", "no group", "unwanted"]


def why(reason: Reason) -> str:
    """Return a reason as a sentence without an end, about any letter."""
    return _REASONS[reason]


_REASONS: dict[Reason, str] = {
    "gone": "somebody else has retried or dropped it meanwhile, or a limit has removed it",
    "empty": "its event was trimmed before the step gave up; it can only be dropped",
    "no group": "the step has no consumer group there; start a worker that runs the step",
    "unwanted": "no trigger of the running versions of the step covers it; run a version that does, or drop it",
}


async def retry(router: Router, keyspace: Keyspace, letters: Sequence[DeadLetter]) -> list[Reason | None]:
    """Retry letters. Return for each why it stayed, or None."""
    reasons = expected_reasons(letters, await registry.read(router, keyspace))
    calls = []
    for letter, reason in zip(letters, reasons, strict=True):
        if reason is None:
            place, entry_id = place_of(keyspace, letter.step, letter.id)
            origin = letter.fields[b"stream"]
            stream = keyspace.cron(letter.step) if is_cron(origin) else origin  # the step may have been renamed
            calls.append(administration.Letter(place.stream, stream, letter.step, entry_id, origin))
    outcomes = iter(await administration.retry_dead_letter(router, calls))
    return [_reason(next(outcomes)) if reason is None else reason for reason in reasons]


def _reason(outcome: administration.RetryOutcome) -> Reason | None:
    return None if outcome == "retried" else outcome


def expected_reasons(letters: Sequence[DeadLetter], known: registry.Registry) -> list[Reason | None]:
    """Return for each letter why a retry would leave it, as far as that can be told without trying."""
    return [_expected(letter, known) for letter in letters]


def _expected(letter: DeadLetter, known: registry.Registry) -> Reason | None:
    if not letter.event_type:
        return "empty"
    versions = known.versions(letter.step)
    return None if not versions or any(wants.match(letter.fields) for wants in versions) else "unwanted"


def refusal(letter: DeadLetter, reason: Reason) -> DeadLetterMissing | StepMissing:
    """Return the error about a letter that was not retried."""
    subject = f"dead letter {letter.id} of step {letter.step!r} cannot be retried"
    match reason:
        case "gone":
            return missing(letter.step, letter.id)
        case "empty":
            return DeadLetterMissing(f"{subject}: its event was trimmed before the step gave up; drop the letter")
        case "no group":
            return StepMissing(f"{subject}: the step has no consumer group on {letter.stream}; start a worker that runs the step")
        case "unwanted":
            return StepMissing(
                f"{subject}: no trigger of the running versions of the step covers {_event(letter)}; run a version that does, "
                f"or drop the letter"
            )


def _event(letter: DeadLetter) -> str:
    if letter.schedule is not None:
        return f"cron {letter.schedule!r}"
    return f"topic {letter.topic!r}" if letter.topic is not None else f"scope {letter.scope!r}, key {letter.key!r}"


async def drop(router: Router, keyspace: Keyspace, place: LetterPlace, letters: Sequence[DeadLetter]) -> int:
    """Delete letters of one place, and what their handlers have recorded of their effects. Return their number."""
    found = {letter.id.partition("/")[2]: letter for letter in letters}
    identity, removed = await administration.drop_dead_letters(
        router, dead=place.stream, leases=keyspace.leases(place.stream), step=place.step, ids=list(found)
    )
    events = [effects.event_id(identity, found[entry_id].fields[b"stream"], found[entry_id].revision) for entry_id in removed]
    await effects.free(router, keyspace, [(effects.record_name(event), None) for event in events])
    return len(removed)
