"""Draw, save and load cases. A case is a stored text and an update of it."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from motia_redis._store import codec
from motia_redis._store.expiry import KEEP
from tests.fuzzing.documents import draw_value, encode_canonical
from tests.fuzzing.model import Model
from tests.fuzzing.noncanonical import damaged, encode_noncanonical
from tests.fuzzing.operations import draw_operation
from tests.fuzzing.times import NOW, split, with_time

if TYPE_CHECKING:
    import random


@dataclass(slots=True)
class Case:
    """A stored text (None: no value) and an update of it. With `by_set`, the runner writes `value` with `set`.

    The text may have a time, at which it expires. `ttl` is that of the update.
    """

    text: bytes | None
    operations: Any
    strict: bool
    value: Any = field(default=None, compare=False)
    by_set: bool = False
    ttl: Any = KEEP

    @property
    def time(self) -> int | None:
        """The time at which the text expires, in Unix milliseconds; None: never."""
        return None if self.text is None else split(self.text)[1]

    @property
    def found(self) -> bytes | None:
        """The text that the update finds: None if it has expired."""
        time = self.time
        return None if time is not None and time < NOW else self.text

    @property
    def is_canonical(self) -> bool:
        """Whether the text has the mark of canonical JSON."""
        return self.text is not None and self.text.endswith(codec.CANONICAL_MARK)

    def to_json(self) -> dict[str, Any]:
        return {
            "text": None if self.text is None else self.text.decode("latin-1"),
            "text_base64": None if self.text is None else base64.b64encode(self.text).decode(),
            "form": "missing" if self.text is None else "canonical" if self.is_canonical else "non-canonical",
            "operations": self.operations,
            "strict": self.strict,
            "ttl": "keep" if self.ttl is KEEP else self.ttl,
        }

    @staticmethod
    def from_json(saved: dict[str, Any]) -> Case:
        text, ttl = saved["text_base64"], saved.get("ttl", "keep")
        return Case(
            None if text is None else base64.b64decode(text),
            saved["operations"],
            saved["strict"],
            ttl=KEEP if ttl == "keep" else ttl,
        )


def expect(case: Case) -> Model:
    """Return the model after all operations of the case."""
    model = Model(case.found, strict=case.strict)
    for operation in case.operations:
        model.step(operation)
    return model


def _deep_case(rnd: random.Random) -> Case:
    """Draw a case with nesting around the limit, in the document or made by `copy`."""
    levels = rnd.choice((990, 998, 999, 1000, 1001, 1002, 1100))
    if rnd.random() < 0.5:
        opening, closing = rnd.choice(((b"[", b"]"), (b'{"a":', b"}"), (b' [ 1 , {"a" : ', b"} ]")))
        text = opening * levels + b"1" + closing * levels
        first = "/a" if opening.startswith(b"{") else "/0"
        return Case(text, [{"op": "replace", "path": first, "value": 2}], rnd.random() < 0.5)
    value: Any = [0, 1]
    for _ in range(rnd.choice((120, 200, 249))):
        value = [value]
    return Case(
        encode_canonical(value), [{"op": "copy", "from": "", "path": "/0" * 119}] * rnd.randrange(1, 9), rnd.random() < 0.5
    )


def _with_times(rnd: random.Random, case: Case, *, may_expire: bool = False) -> Case:
    """Draw a time for the text of a case, and one for its update."""
    time, text = None, case.text
    if text is not None and not case.by_set and rnd.random() < 0.7:
        has_expired = may_expire and rnd.random() < 0.1
        time = rnd.choice((0, 1, NOW - 1, rnd.randrange(NOW))) if has_expired else rnd.randrange(3 * NOW, 4**24)
        text = with_time(text, time)
    return replace(case, text=text, ttl=rnd.choice((KEEP, KEEP, None, 3600, 0.5 + rnd.randrange(10**8))))


def draw_case(rnd: random.Random) -> tuple[Case, Model]:
    """Draw a case; return it and the model after all of its operations."""
    if rnd.random() < 0.001:
        case = _deep_case(rnd)
        return _with_times(rnd, case), expect(case)
    dice = rnd.random()
    strict = rnd.random() < 0.4
    text, value, by_set = None, None, False
    if dice > 0.02:
        value = draw_value(rnd)
        text = encode_canonical(value)
        by_set = dice < 0.15
        if dice > 0.6:
            text = encode_noncanonical(rnd, value).encode()
            if dice > 0.85:
                text = damaged(rnd, text)
            elif rnd.random() < 0.3:
                text = rnd.choice((b" ", b"\n", b"")) + text + rnd.choice((b"\n", b"\t", b"\r\t", b" \n "))
            if text.endswith(codec.CANONICAL_MARK):
                text += b" "
    case = Case(text, [], strict, value, by_set)
    if rnd.random() < 0.3:
        case = _with_times(rnd, case, may_expire=True)
    model = Model(case.found, strict=strict)
    operations = case.operations
    big = text is not None and len(text) > 3000
    count = rnd.choice((1, 1, 1, 2, 2, 3, 4, 6, 8)) if rnd.random() > 0.005 else 0
    while len(operations) < count:
        operation = draw_operation(rnd, model.value, big=big)
        operations.append(operation)
        model.step(operation)
        if model.refusal:
            if rnd.random() < 0.8 and model.take_back():
                operations.pop()
            elif rnd.random() < 0.9:
                break
    return case, model
