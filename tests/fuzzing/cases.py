"""Draw, save and load cases. A case is a stored text and an update of it."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from motia_redis._store import codec
from tests.fuzzing.documents import draw_value, encode_canonical
from tests.fuzzing.model import Model
from tests.fuzzing.noncanonical import damaged, encode_noncanonical
from tests.fuzzing.operations import draw_operation

if TYPE_CHECKING:
    import random


@dataclass(slots=True)
class Case:
    """A stored text (None: no value) and an update of it. With `by_set`, the runner writes `value` with `set`."""

    text: bytes | None
    operations: Any
    strict: bool
    value: Any = field(default=None, compare=False)
    by_set: bool = False

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
        }

    @staticmethod
    def from_json(saved: dict[str, Any]) -> Case:
        text = saved["text_base64"]
        return Case(None if text is None else base64.b64decode(text), saved["operations"], saved["strict"])


def expect(case: Case) -> Model:
    """Return the model after all operations of the case."""
    model = Model(case.text, strict=case.strict)
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


def draw_case(rnd: random.Random) -> tuple[Case, Model]:
    """Draw a case; return it and the model after all of its operations."""
    if rnd.random() < 0.001:
        case = _deep_case(rnd)
        return case, expect(case)
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
    model = Model(text, strict=strict)
    operations: list[Any] = []
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
    return Case(text, operations, strict, value, by_set), model
