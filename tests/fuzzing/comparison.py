"""Compare the result of an update with the model: value, stored text, event and revision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from motia_redis import errors
from motia_redis._steps.events import decode_change
from motia_redis._store import codec
from motia_redis._store.expiry import KEEP
from motia_redis.errors import CorruptValue, StateError
from tests.fuzzing.times import split, with_time
from tests.fuzzing.values import alike, load, same

if TYPE_CHECKING:
    from tests.fuzzing.cases import Case
    from tests.fuzzing.model import Model
    from tests.fuzzing.runner import Observed

#: The exceptions that each kind of refusal may raise.
REFUSALS: dict[str, tuple[type[StateError], ...]] = {
    "malformed": (errors.InvalidOperation, errors.InvalidValue),
    "corrupt": (errors.CorruptValue,),
    "no key": (errors.KeyMissing,),
    "place": (errors.PathMissing, errors.BadIndex),
    "kind": (errors.WrongKind,),
    "test": (errors.TestFailed,),
    "overflow": (errors.NumberOverflow,),
    "place or overflow": (errors.PathMissing, errors.BadIndex, errors.NumberOverflow),
    "too deep": (errors.TooDeep,),
}


def find_mismatch(case: Case, model: Model, seen: Observed) -> str | None:  # noqa: PLR0911  # one check after the other
    """Return how the result of a case differs from the model; None if it does not."""
    if seen.long_way is not None and (difference := _compare_ways(seen, seen.long_way)):
        return difference
    if seen.in_transaction is not None and (difference := _compare_transaction(case, model, seen.in_transaction)):
        return f"in a transaction: {difference}"
    before = b"1-1" if case.text else None
    if seen.raised is not None:
        if not isinstance(seen.raised, StateError):
            return f"raised {seen.raised!r}"
        if seen.stored != case.text or seen.revision != before or seen.events or seen.due:
            return f"raised {seen.raised!r:.300}, but changed the key: {seen.stored!r:.300}"
        return _compare_refusal(case, model, seen.raised)
    if model.refusal is not None:
        return f"was accepted, must be rejected: {model.refusal}"
    if not alike(model.value, seen.returned):
        return f"returned {seen.returned!r:.600}"
    touched = model.touched or not _keeps_time(case)
    if not touched:
        unchanged = seen.stored == case.text and seen.revision == before and not seen.events
        return None if unchanged else f"must change nothing, but wrote {seen.stored!r:.300} with {len(seen.events)} events"
    try:
        stored = load(seen.stored or b"")
    except ValueError as error:
        return f"stored a text that is not JSON ({error}): {seen.stored!r:.600}"
    if not same(model.value, stored):
        return f"stored {seen.stored!r:.600}"
    return _compare_time(case, model, seen) or _compare_event(case, model, seen)


def _keeps_time(case: Case) -> bool:
    """Return whether the update leaves the time of the value as it is."""
    return case.ttl is KEEP or (case.ttl is None and (case.found is None or case.time is None))


def _compare_time(case: Case, model: Model, seen: Observed) -> str | None:
    """Compare the time behind the stored text, and what says when the key is due; all other bytes at the end must stay."""
    json, time, mark = split(seen.stored or b"")
    before = None if case.found is None else case.time
    if _keeps_time(case):
        is_right, due = time == before, None
    elif case.ttl is None:
        is_right, due = time is None, None
    else:
        first, last = (moment + round(case.ttl * 1000) for moment in seen.during)
        is_right, due = time is not None and first <= time <= last, time
    if not is_right:
        return f"expires at {time}, with ttl={case.ttl!r} after {before}"
    if mark != split(with_time(case.found or codec.CANONICAL_MARK, time))[2]:
        return f"stored the mark {mark!r}"
    if seen.due != due:
        return f"is due at {seen.due}, must be at {due}"
    if case.found is not None:
        old = split(case.found)[0]
        if not model.touched and json != old:
            return f"stored {json!r:.300} behind an update of the time alone"
        if old[len(old.rstrip()) :] != json[len(json.rstrip()) :]:
            return f"stored other white space behind the value: {seen.stored!r:.300}"
    return None


def _compare_transaction(case: Case, model: Model, seen: Observed) -> str | None:
    if isinstance(seen.raised, errors.TooMuchWork):  # several updates are parsed several times
        return None
    if (seen.beside is None) != (seen.raised is not None):
        return f"raised {seen.raised!r:.300}, but stored {seen.beside!r:.100} in another scope"
    return find_mismatch(case, model, seen)


def _compare_ways(short: Observed, long: Observed) -> str | None:
    """Return how the result of the short way differs from that of the long way; None if it does not."""
    for what, one, other in (
        ("raised", repr(short.raised), repr(long.raised)),
        ("returned", repr(short.returned), repr(long.returned)),
        ("stored", short.stored, long.stored),
        ("appended", *([_told(fields) for _, fields in seen.events] for seen in (short, long))),
    ):
        if one != other:
            return f"{what} {one!r:.400}, but {other!r:.400} by the long way"
    return None


def _told(fields: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Return the fields of an event that are the same whenever the same update is made."""
    return {name: content for name, content in fields.items() if name != b"request"}


def is_too_long(case: Case, raised: StateError) -> bool:
    """Return whether a non-canonical text was rejected for its length. Parsing it costs Redis more than canonical JSON."""
    long = case.text is not None and len(case.text) > 1000 and not case.is_canonical
    return long and (
        isinstance(raised, errors.TooMuchWork) or (isinstance(raised, CorruptValue) and "for an update in place" in str(raised))
    )


def _compare_refusal(case: Case, model: Model, raised: StateError) -> str | None:
    if is_too_long(case, raised):
        return None
    if model.duplicates and isinstance(raised, CorruptValue | errors.TestFailed):
        return None  # parsers differ in which of two members with one name counts, so a rejection is right, too
    if model.refusal is None:
        return f"was rejected, must be accepted: {raised!r:.300}"
    kind, index = model.refusal
    if not isinstance(raised, REFUSALS[kind]):
        return f"was rejected with {raised!r:.300}, must be {kind}"
    if index is not None and f"operation {index}" not in str(raised):
        return f"names another operation than {index}: {raised!r:.300}"
    return None


def _compare_event(case: Case, model: Model, seen: Observed) -> str | None:  # noqa: PLR0911  # one check after the other
    expiries = [fields for _, fields in seen.events if fields.get(b"reason") == b"expired"]
    if [(fields[b"type"], fields[b"old"], b"request" in fields) for fields in expiries] != (
        [] if case.found == case.text else [(b"state:deleted", case.text, False)]
    ):
        return f"appended the expiries {expiries!r:.300}"
    if len(seen.events) != 1 + len(expiries):
        return f"appended {len(seen.events)} events"
    entry_id, fields = seen.events[-1]
    if seen.revision != entry_id:
        return f"has the revision {seen.revision!r}, the event is {entry_id!r}"
    if fields[b"new"] != seen.stored:
        return f"the event's new text is {fields[b'new']!r:.300}, stored is {seen.stored!r:.300}"
    created = case.found is None
    if not created and old_text(fields) != case.text:
        return f"the event's old text is {old_text(fields)!r:.300}, stored was {case.text!r:.300}"
    try:
        change = decode_change(entry_id.decode(), fields)
    except CorruptValue as error:
        return f"the event cannot be read: {error}"
    if change.event_type != ("state:created" if created else "state:updated"):
        return f"the event's type is {change.event_type}"
    if not alike(model.value, change.new_value) or not (
        change.old_value is None if created else alike(load(case.text or b""), change.old_value)
    ):
        return f"the event describes {change.old_value!r:.300} -> {change.new_value!r:.300}"
    return None


def kept(fields: dict[bytes, bytes]) -> tuple[int, int]:
    """Return how many bytes at the start and at the end of an event's new text are also in the old text."""
    prefix, suffix = map(int, fields.get(b"kept", b"0:0").split(b":"))
    return prefix, suffix


def old_text(fields: dict[bytes, bytes]) -> bytes:
    """Return the old text of an event."""
    prefix, suffix = kept(fields)
    new = fields[b"new"]
    return new[:prefix] + fields.get(b"old", b"") + new[len(new) - suffix :]
