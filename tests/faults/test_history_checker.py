"""The checker of histories accepts what is linearizable, and rejects what is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from motia_redis._store.keyspace import tag
from tests.history.calls import SCOPES, Call, Value, name_of, place_of
from tests.history.check import Event, Part, Violation, check


def history(*calls: Call) -> list[Call]:
    return list(calls)


A, B = Value("a", 0), Value("b", 1)
CREATED, UPDATED = Event("1-0", "r1", None, A), Event("2-0", "r2", A, B)
DELETED, CREATED_AGAIN = Event("3-0", "r3", B, None), Event("4-0", "r4", None, Value("c", 1))
SET = Call("k", "set", 10, 20, token="a", count=0)
UPDATE = Call("k", "update", 30, 40, token="b", count=1)
DELETE = Call("k", "delete", 50, 60, seen=B)
HALFWAY = {"k": (B, "2-0")}


def read(start: int, end: int, seen: Value | None) -> Call:
    return Call("k", "get", start, end, seen=seen)


def change(
    kind: str, token: str = "b", *, expected: str | None = "1-0", count: int | None = 1, revision: str | None = None
) -> Call:
    """Return a change at the time of UPDATE that requires a revision; rejected if it found another one."""
    outcome = "ok" if revision is None else "rejected"
    return Call("k", kind, 30, 40, outcome, token, revision=revision, expected=expected, count=count)


@pytest.mark.parametrize(
    "calls",
    [
        history(SET, UPDATE),
        history(SET, UPDATE, read(5, 15, None), read(5, 15, A), read(25, 35, A), read(31, 32, B), read(50, 60, B)),
        history(SET, Call("k", "update", 30, 31, "unknown", "b"), read(90, 99, B)),
        history(SET, UPDATE, change("set", "c", expected="0-9", revision="1-0"), Call("k", "set", 1, 2, "unknown", "d")),
        history(SET, UPDATE, Call("k", "delete", 1, 2), Call("k", "entry", 50, 60, seen=B, revision="2-0")),
        history(SET, UPDATE, Call("k", "delete", 1, 2, expected=None), change("delete", expected=None, revision="2-0")),
        history(SET, change("update")),
        history(SET, change("modify")),
        history(SET, change("set")),
    ],
)
def test_linearizable_history_is_accepted(calls: list[Call]) -> None:
    assert check(calls, {"k": [CREATED, UPDATED]}, HALFWAY) == len(calls)


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        (history(SET), "belongs to no call"),
        (history(SET, UPDATE, read(50, 60, A)), "must be between 2 and 2"),
        (history(SET, UPDATE, read(5, 8, A)), "must be between 0 and 0"),
        (history(SET, UPDATE, read(31, 33, B), read(34, 36, A)), "must be between 2"),
        (history(SET, UPDATE, read(50, 60, Value("x", 1))), "a value that no change wrote"),
        (history(SET, UPDATE, read(50, 60, Value("b", 2))), "a value that no change wrote"),
        (history(SET, UPDATE, read(50, 60, None)), "must be between 2"),
        (history(SET, UPDATE, Call("k", "set", 50, 60, token="c")), "set c was acknowledged, and has no event"),
        (history(SET, UPDATE, DELETE), "delete of b=1 was acknowledged, and has no event"),
        (history(SET, Call("k", "update", 1, 5, token="b")), "began after the end of a later one"),
        (history(SET, change("update", expected="0-9", revision="1-0")), "was rejected, and has an event"),
        (history(SET, UPDATE, Call("k", "entry", 31, 32, seen=A, revision="2-0")), "the revision of another value"),
        # -- compare-and-set
        (history(SET, change("set", expected="0-9")), "required the revision 0-9, and changed the value of 1-0"),
        (history(SET, change("update", expected=None)), "required the revision None, and changed the value of 1-0"),
        (history(SET, UPDATE, change("set", "c", revision="1-0")), "found the revision that it required"),
        (history(SET, UPDATE, change("set", "c", expected="any", revision="1-0")), "was rejected, and required no revision"),
        (
            history(SET, UPDATE, Call("k", "set", 50, 60, "rejected", "c", expected="2-0", revision="1-0")),
            "must be between 2",
        ),
        (history(SET, UPDATE, Call("k", "delete", 1, 5, expected="1-0")), "found no value, and required the revision 1-0"),
        # -- read-modify-write
        (history(SET, change("modify", count=2)), "says the counter 2, its event 1"),
        (history(SET, Call("k", "update", 30, 40, token="b", count=2)), "says the counter 2, its event 1"),
    ],
)
def test_history_that_is_not_linearizable_is_rejected(calls: list[Call], message: str) -> None:
    with pytest.raises(Violation, match=message):
        check(calls, {"k": [CREATED, UPDATED]}, HALFWAY)


@pytest.mark.parametrize(
    ("events", "stored", "message"),
    [
        ([CREATED, Event("2-0", "r2", Value("x", 0), B)], (B, "2-0"), "has the old value x"),
        ([CREATED, Event("1-0", "r2", A, B)], (B, "1-0"), "revision 1-0 follows 1-0"),
        ([CREATED, UPDATED], (A, "2-0"), "a=0 is stored"),
        ([CREATED, UPDATED], (B, "1-0"), "revision 1-0 is stored"),
        ([CREATED, UPDATED, Event("3-0", "r3", B, B)], (B, "3-0"), "applied twice"),
        ([CREATED, Event("2-0", "r1", A, B)], (B, "2-0"), "more than one event"),
        # -- counters
        ([CREATED, Event("2-0", "r2", A, Value("b", 2))], (Value("b", 2), "2-0"), "says the counter 1, its event 2"),
        ([Event("1-0", "r1", None, Value("a", 7))], (Value("a", 7), "1-0"), "says the counter 0, its event 7"),
    ],
)
def test_events_that_contradict_the_calls_are_rejected(events: list[Event], stored: tuple[Value, str], message: str) -> None:
    with pytest.raises(Violation, match=message):
        check([SET, UPDATE], {"k": events}, {"k": stored})


# A value that is set at 1 ms, and expires at 100 ms or more.
TTL_SET = Call("k", "set", 500_000, 1_500_000, token="a", count=0, ttl=0.099)
TTL_CREATED = Event("1-0", "r1", None, A, expires=100)
EXPIRY = Event("100-0", None, A, None, is_expiry=True)


@pytest.mark.parametrize(
    ("calls", "events", "message"),
    [
        (history(), [EXPIRY], None),
        (history(Call("k", "get", 99_000_000, 101_000_000, seen=A)), [EXPIRY], None),
        (history(Call("k", "get", 100_000_000, 101_000_000)), [], None),  # nobody has written the expiry yet
        (history(Call("k", "get", 90_000_000, 91_000_000)), [EXPIRY], "must be between 1 and 1"),
        (history(Call("k", "get", 250_000_000, 251_000_000, seen=A)), [], "shows a value 150 ms after its time"),
        (
            history(Call("k", "entry", 250_000_000, 251_000_000, seen=A, revision="1-0")),
            [],
            "shows a value 150 ms after its time",
        ),
        (history(Call("k", "delete", 100_000_000, 101_000_000)), [EXPIRY], None),
        (history(Call("k", "delete", 100_000_000, 101_000_000, seen=A)), [EXPIRY], "was acknowledged, and has no event"),
        (history(), [Event("90-0", None, A, None, is_expiry=True)], "an expiry before its time 100"),
        (history(), [Event("100-0", "r9", A, None, is_expiry=True)], "has a request"),
        (history(), [EXPIRY, Event("101-0", None, None, None, is_expiry=True)], "an expiry before its time None"),
        (
            history(Call("k", "update", 90_000_000, 95_000_000, token="b", count=1)),
            [Event("92-0", "r2", A, B, expires=100), Event("100-0", None, B, None, is_expiry=True)],
            None,
        ),
        (
            history(Call("k", "update", 90_000_000, 95_000_000, token="b", count=1)),
            [Event("92-0", "r2", A, B)],
            "gave no time to live; its value expires at None, not 100",
        ),
        (
            history(Call("k", "update", 150_000_000, 155_000_000, token="b", count=1)),
            [Event("152-0", "r2", A, B, expires=100)],
            "changes a=0, which expired at 100",
        ),
        (
            history(Call("k", "set", 90_000_000, 95_000_000, token="b", count=1)),
            [Event("92-0", "r2", A, B, expires=100)],
            "gave no time to live; its value expires at 100, not None",
        ),
        (
            history(Call("k", "set", 90_000_000, 95_000_000, token="b", count=1, ttl=1)),
            [Event("92-0", "r2", A, B, expires=1200)],
            "expires at 1200, not between",
        ),
        (
            history(Call("k", "set", 150_000_000, 155_000_000, token="c", count=1, expected=None)),
            [EXPIRY, Event("152-0", "r2", None, Value("c", 1))],
            None,
        ),
        (
            history(Call("k", "set", 150_000_000, 155_000_000, token="c", count=1)),
            [Event("152-0", "r2", None, Value("c", 1))],
            "has the old value None, the value was a=0",
        ),
    ],
)
def test_values_end_by_expiries_at_their_time(calls: list[Call], events: list[Event], message: str | None) -> None:
    found = [TTL_CREATED, *events]
    last = found[-1]
    stored = {"k": (last.new, last.revision if last.new else None)}
    if message is None:
        assert check([TTL_SET, *calls], {"k": found}, stored) == 1 + len(calls)
    else:
        with pytest.raises(Violation, match=message):
            check([TTL_SET, *calls], {"k": found}, stored)


@pytest.mark.parametrize("kind", ["update", "modify"])
@pytest.mark.parametrize("outcome", ["ok", "unknown"])
def test_counter_that_begins_at_7_is_rejected(kind: str, outcome: str) -> None:
    """The call itself says nothing about the counter: its reply was lost, or the event agrees with a wrong reply."""
    first = Call(
        "k", kind, 10, 20, outcome, "a", expected=None if kind == "modify" else "any", count=7 if outcome == "ok" else None
    )
    seven = Value("a", 7)
    with pytest.raises(Violation, match="incremented the counter from 0 to 7"):
        check([first], {"k": [Event("1-0", "r1", None, seven)]}, {"k": (seven, "1-0")})


def test_counter_that_skips_a_value_is_rejected() -> None:
    three = Value("b", 3)
    update = Call("k", "update", 30, 40, token="b", count=3)
    with pytest.raises(Violation, match="incremented the counter from 0 to 3"):
        check([SET, update], {"k": [CREATED, Event("2-0", "r2", A, three)]}, {"k": (three, "2-0")})


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        (history(DELETE), None),
        (history(DELETE, Call("k", "delete", 55, 65)), None),
        (history(Call("k", "delete", 50, 60, "unknown")), None),
        (history(Call("k", "delete", 50, 60, "unknown", expected="2-0")), None),
        (history(Call("k", "delete", 50, 60, seen=B, expected="2-0"), Call("k", "delete", 51, 61, "unknown")), None),
        (history(DELETE, Call("k", "delete", 51, 61, seen=B)), "two deletes returned b=1"),
        (history(Call("k", "delete", 50, 60, seen=A)), "the delete of a=0 was acknowledged, and has no event"),
        (history(), "belongs to no call"),
        (history(Call("k", "delete", 50, 60, seen=B, expected="1-0")), "required the revision 1-0, and changed the value of 2-0"),
        (history(Call("k", "delete", 50, 60, "unknown", expected="1-0")), "belongs to no call"),
        (history(Call("k", "delete", 75, 80, "unknown")), "belongs to no call"),
        (history(Call("k", "delete", 50, 60, "rejected", expected="1-0", revision="2-0")), "belongs to no call"),
    ],
)
def test_value_has_one_delete_that_may_have_removed_it(calls: list[Call], message: str | None) -> None:
    calls += [SET, UPDATE, Call("k", "update", 65, 70, token="c", count=1)]
    events = {"k": [CREATED, UPDATED, DELETED, CREATED_AGAIN]}
    stored = {"k": (CREATED_AGAIN.new, "4-0")}
    if message is None:
        assert check(calls, events, stored) == len(calls)
    else:
        with pytest.raises(Violation, match=message):
            check(calls, events, stored)


# One transaction sets k of the first scope, deletes k of the second one, and checks c.
X, C = Value("x", 0), Value("c", 0)
EARLIER = [Call("other:k", "set", 1, 2, token="x", count=0), Call("c", "set", 3, 4, token="c", count=0)]
SET_TOGETHER = Call("k", "set", 10, 20, token="a", count=0, together="t", made="100-0")
DELETE_TOGETHER = Call("other:k", "delete", 10, 20, token="d", together="t", made="100-1")
CHECK = Call("c", "check", 10, 20, token="e", together="t", expected="20-0")
X_CREATED, C_CREATED = Event("10-0", "r1", None, X), Event("20-0", "r2", None, C)
A_CREATED = Event("100-0", "r3", None, A, part=Part("r3", 2, 0))
X_DELETED = Event("100-1", "r3", X, None, part=Part("r3", 2, 1))


def check_transaction(
    *calls: Call,
    k: Event | None = A_CREATED,
    other: Event | None = X_DELETED,
    c: Event | None = None,
    violation: str | None = None,
) -> None:
    """Check these calls after EARLIER, where each key has one more event or none."""
    events = {
        "k": [event for event in (k,) if event],
        "other:k": [event for event in (X_CREATED, other) if event],
        "c": [event for event in (C_CREATED, c) if event],
    }
    stored: dict[str, tuple[Value | None, str | None]] = {
        key: (found[-1].new, found[-1].revision) for key, found in events.items() if found and found[-1].new
    }
    recorded = [*EARLIER, *calls]
    if violation is None:
        assert check(recorded, events, stored) == len(recorded)
        return
    with pytest.raises(Violation, match=violation):
        check(recorded, events, stored)


def unknown(call: Call) -> Call:
    return replace(call, outcome="unknown", made=None)


def test_transaction_over_two_scopes_is_accepted() -> None:
    check_transaction(SET_TOGETHER, DELETE_TOGETHER, CHECK)
    check_transaction(*map(unknown, (SET_TOGETHER, DELETE_TOGETHER, CHECK)))
    check_transaction(*map(unknown, (SET_TOGETHER, DELETE_TOGETHER, CHECK)), k=None, other=None)
    check_transaction(replace(CHECK, expected="10-0", revision="20-0", outcome="rejected"), k=None, other=None)
    check_transaction(CHECK, k=None, other=None)
    alone = replace(A_CREATED, part=Part("r3", 1, 0))
    check_transaction(SET_TOGETHER, k=alone, other=None)
    check_transaction(SET_TOGETHER, Call("d", "delete", 10, 20, token="d", together="t"), k=alone, other=None)
    check_transaction(SET_TOGETHER, Call("d", "check", 10, 20, token="d", together="t", expected=None), k=alone, other=None)


@pytest.mark.parametrize(
    ("first", "second", "violation"),
    [
        (Part("r3", 3, 0), Part("r3", 3, 1), "have the numbers and sizes"),
        (Part("r3", 2, 1), Part("r3", 2, 1), "have the numbers and sizes"),
        (Part("r3", 2, 1), Part("r3", 2, 2), "have the numbers and sizes"),
        (Part("r3", 2, 0), Part("r3", 3, 1), "have the numbers and sizes"),
        (Part("r3", 1, 0), Part("r3", 1, 0), "have the numbers and sizes"),
        (Part("r4", 1, 0), Part("r3", 1, 0), "event 100-0 of request r3 has"),
        (Part("r3", 1, 0), None, "delete d was made in a transaction, and its event has None"),
        (None, Part("r3", 1, 0), "set a was made in a transaction, and its event has None"),
    ],
)
def test_transaction_has_each_of_its_events_once(first: Part | None, second: Part | None, violation: str) -> None:
    k, other = replace(A_CREATED, part=first), replace(X_DELETED, part=second)
    check_transaction(SET_TOGETHER, DELETE_TOGETHER, k=k, other=other, violation=violation)
    # Nor may the events be so if it is not known whether the transaction was applied.
    if violation.startswith("have"):
        check_transaction(unknown(SET_TOGETHER), unknown(DELETE_TOGETHER), k=k, other=other, violation=violation)


def test_change_alone_and_expiry_belong_to_no_transaction() -> None:
    alone = replace(SET_TOGETHER, together="", made=None)
    part = Part("r3", 1, 0)
    check_transaction(alone, k=replace(A_CREATED, part=None), other=None)
    check_transaction(alone, k=replace(A_CREATED, part=part), other=None, violation="was not made in a transaction")
    given_up = Call("other:k", "delete", 10, 20, "unknown", token="d")
    check_transaction(given_up, k=None, other=replace(X_DELETED, part=None))
    check_transaction(given_up, k=None, other=replace(X_DELETED, part=part), violation="belongs to no call")
    set_with_ttl = replace(TTL_SET, start=500_000, end=1_500_000)
    expiry = replace(EXPIRY, part=Part("r9", 1, 0))
    with pytest.raises(Violation, match="event 100-0 of request None has"):
        check([set_with_ttl], {"k": [TTL_CREATED, expiry]}, {})


@pytest.mark.parametrize(
    ("requests", "outcome", "violation"),
    [
        (("r3", "r3"), "ok", None),
        ((None, None), "unknown", None),
        ((None, None), "ok", "was acknowledged, and has no event"),
        (("r3", "r4"), "ok", "have events of the requests"),
        (("r3", None), "unknown", "have events of the requests"),
        ((None, "r3"), "ok", "have events of the requests"),
    ],
)
def test_changes_of_a_transaction_have_events_of_one_request(
    requests: tuple[str | None, str | None], outcome: str, violation: str | None
) -> None:
    size = 2 if requests[0] == requests[1] else 1
    calls = [
        Call(key, "set", 10, 20, outcome, token=key, count=0, together="t", made=f"{number}-0" if outcome == "ok" else None)
        for number, key in enumerate("ab", 1)
    ]
    events = {
        key: [Event(f"{number}-0", request, None, Value(key, 0), part=Part(request, size, number - 1 if size == 2 else 0))]
        for number, (key, request) in enumerate(zip("ab", requests, strict=True), 1)
        if request
    }
    stored: dict[str, tuple[Value | None, str | None]] = {key: (found[0].new, found[0].revision) for key, found in events.items()}
    if violation is None:
        check(calls, events, stored)
        return
    with pytest.raises(Violation, match=violation):
        check(calls, events, stored)


def test_two_transactions_have_two_requests() -> None:
    again = replace(DELETE_TOGETHER, together="u")
    check_transaction(SET_TOGETHER, again, violation="two transactions have the same request")


@pytest.mark.parametrize(
    ("calls", "events", "violation"),
    [
        # -- acknowledged
        ((SET_TOGETHER, DELETE_TOGETHER), {"other": None, "k": replace(A_CREATED, part=Part("r3", 1, 0))}, "have events of the"),
        ((SET_TOGETHER, replace(DELETE_TOGETHER, made=None)), {}, "belongs to no call"),
        (
            (SET_TOGETHER, replace(DELETE_TOGETHER, made=None)),
            {"other": None, "k": replace(A_CREATED, part=Part("r3", 1, 0))},
            "other:k: delete at 10 .* must be between 1 and 1",
        ),
        ((replace(SET_TOGETHER, made="99-0"), DELETE_TOGETHER), {}, "set a returned the revision 99-0, its event is 100-0"),
        ((replace(SET_TOGETHER, made=None), DELETE_TOGETHER), {}, "set a returned the revision None, its event is 100-0"),
        (
            (SET_TOGETHER, replace(DELETE_TOGETHER, expected="9-0")),
            {},
            "delete d required the revision 9-0, and changed the value of 10-0",
        ),
        ((SET_TOGETHER, replace(DELETE_TOGETHER, outcome="rejected", expected="9-0", revision="10-0")), {}, "has an event"),
        # -- unknown: the changes beside it tell whether it was made
        (
            (unknown(SET_TOGETHER), unknown(DELETE_TOGETHER)),
            {"k": None, "other": replace(X_DELETED, part=Part("r3", 1, 0))},
            "belongs to no call",
        ),
        (
            (unknown(SET_TOGETHER), unknown(DELETE_TOGETHER)),
            {"k": replace(A_CREATED, part=Part("r3", 1, 0)), "other": replace(X_DELETED, request="r4", part=Part("r4", 1, 0))},
            "belongs to no call",
        ),
        ((unknown(SET_TOGETHER), replace(unknown(DELETE_TOGETHER), expected="9-0")), {}, "delete d required the revision 9-0"),
    ],
)
def test_deletes_of_a_transaction_are_those_of_its_changes(
    calls: tuple[Call, ...], events: dict[str, Event | None], violation: str
) -> None:
    check_transaction(*calls, **events, violation=violation)  # type: ignore[arg-type]


C_CHANGED = Call("c", "update", 5, 25, token="f", count=1)
F = Value("f", 1)


@pytest.mark.parametrize(
    ("check_of_c", "changed_at", "violation"),
    [
        (CHECK, 200, None),
        (replace(CHECK, expected="50-0"), 50, None),
        (CHECK, 50, "checked the revision 20-0 of c, and made the change 100-0 when the key had another revision"),
        (replace(CHECK, expected="200-0"), 200, "when the key had another revision"),
        (replace(CHECK, expected=None), 200, "checked the revision None of c"),
        (unknown(CHECK), 200, None),
        (unknown(CHECK), 50, "when the key had another revision"),
        (replace(CHECK, outcome="rejected", expected="50-0", revision="50-0"), 50, "found the revision that it required"),
    ],
)
def test_check_of_a_transaction_holds_when_its_changes_are_made(check_of_c: Call, changed_at: int, violation: str | None) -> None:
    changed = Event(f"{changed_at}-0", "r5", C, F)
    calls = [SET_TOGETHER, DELETE_TOGETHER, check_of_c, C_CHANGED]
    if check_of_c.outcome == "unknown":
        calls = [unknown(SET_TOGETHER), unknown(DELETE_TOGETHER), check_of_c, C_CHANGED]
    check_transaction(*calls, c=changed, violation=violation)


@pytest.mark.parametrize(
    ("check_of_c", "violation"),
    [
        (replace(CHECK, expected="50-0"), None),
        (CHECK, "c: check at 10 .* is at position 1, and must be between 2 and 2"),
        (replace(CHECK, expected=None), "c: check at 10 .* must be between 2 and 2"),
        (replace(CHECK, expected="60-0"), "saw a value that no change wrote"),
        (replace(CHECK, expected="20-0", outcome="rejected", revision="60-0"), "saw a value that no change wrote"),
    ],
)
def test_checks_alone_are_reads(check_of_c: Call, violation: str | None) -> None:
    changed = Event("50-0", "r5", C, F)
    check_transaction(check_of_c, replace(C_CHANGED, end=8), k=None, other=None, c=changed, violation=violation)


def test_names_of_calls_tell_scopes_apart() -> None:
    for scope in SCOPES.values():
        assert place_of(name_of(scope, "key1")) == (scope, "key1")
    assert len({tag(scope.encode()) for scope in SCOPES.values()}) == 1, "a transaction takes all of them"
