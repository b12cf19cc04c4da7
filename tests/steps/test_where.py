"""Declarative conditions of triggers: what they match, compared with a model that decodes everything, and what is rejected."""

from __future__ import annotations

import json
import random
import re
from enum import Enum
from typing import TYPE_CHECKING, Any

import pytest

from motia_redis import queue, step
from motia_redis import state as state_trigger
from motia_redis._steps import where as module
from motia_redis._steps.where import Where
from motia_redis._store import codec, expiry
from motia_redis._store.codec import CANONICAL_MARK
from motia_redis.errors import StateError, StepError
from tests.fuzzing.values import equal

if TYPE_CHECKING:
    from collections.abc import Mapping

    import redis

    from motia_redis import StateManager

# Few names and values, so that documents often have what is asked for, also in the wrong place. Some need escapes.
NAMES = ["a", "b", "0", "1", "é", "x/y", "t~", 'q"', "[", "\n", "\\", ",", "a:1"]
SCALARS: list[Any] = [
    *(0, 1, -1, 10, 12, 0.5, 1.0, -0.0, 1.5, 1e3, 1000, 2**53, 2.0**53, 2**63, 1e22, -7),
    *("", "a", "é", "☃", "\U0001f600", 'q"', "[x]", "{}", "\n", "\\", "\\n", "1", "true", ",", '","', "\x00"),
    *(True, False, None),
]
CONTAINERS: list[Any] = [[], {}, [1], [1.0, "a"], {"a": 1}, {"a": 1.0, "b": None}, [True], ["1"]]
_ABSENT = object()


def generate(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.random()
    if depth > 3 or kind < 0.4:
        return rng.choice(SCALARS)
    if kind < 0.8:
        return {rng.choice(NAMES): generate(rng, depth + 1) for _ in range(rng.randrange(4))}
    return [generate(rng, depth + 1) for _ in range(rng.randrange(4))]


def paths(document: Any, tokens: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Return all places of a document and their values."""
    found = [(tokens, document)] if tokens else []
    items: Any = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    for name, item in items:
        found += paths(item, (*tokens, str(name)))
    return found


def pointer(tokens: tuple[str, ...]) -> str:
    return "".join("/" + token.replace("~", "~0").replace("/", "~1") for token in tokens)


def spellings(rng: random.Random, document: Any) -> list[bytes]:
    """Return a document as this library writes it, and as others might."""
    canonical = codec.encode(document, subject="", max_bytes=10**9)
    plain = json.dumps(document, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1]))
    escaped = re.sub(r"(?<=\")[a-z](?=\")", lambda match: f"\\u{ord(match[0]):04x}", plain)
    texts = [canonical + CANONICAL_MARK, canonical, plain.encode(), escaped.encode()]
    texts.append(expiry.join(canonical, 2**40, is_canonical=True))
    # Numbers have many spellings, also in canonical JSON: an import keeps those that it gets.
    for old, new in ((b":1,", b":1.0,"), (b":1}", b":10e-1}"), (b":0}", b":-0}"), (b":1000}", b":1E3}"), (b":12}", b":1.2e1}")):
        texts += [text.replace(old, new) for text in texts[:1] if old in text]
    return texts


def model(document: Any, wanted: Mapping[str, Any]) -> bool:
    """Decide by the decoded document alone."""
    for name, value in wanted.items():
        tokens = [name]
        if name.startswith("/"):
            tokens = [token.replace("~1", "/").replace("~0", "~") for token in name.split("/")[1:]]
        found = document
        for token in tokens:
            if isinstance(found, dict):
                found = found.get(token, _ABSENT)
            elif isinstance(found, list):
                found = {str(index): item for index, item in enumerate(found)}.get(token, _ABSENT)
            else:
                found = _ABSENT
        if found is _ABSENT or not equal(found, value):
            return False
    return True


def ask(rng: random.Random, document: Any) -> dict[str, Any]:
    """Return members to ask for: some that the document has, near misses, and arbitrary ones."""
    wanted = {}
    places = paths(document)
    for _ in range(rng.choice([1, 1, 2])):
        tokens, value = rng.choice(places) if places and rng.random() < 0.8 else ((rng.choice(NAMES),), rng.choice(SCALARS))
        if rng.random() < 0.4:
            value = rng.choice(SCALARS + CONTAINERS)
        name = tokens[0] if len(tokens) == 1 and not tokens[0].startswith("/") and rng.random() < 0.5 else pointer(tokens)
        wanted[name] = value
    return wanted


@pytest.mark.parametrize("seed", range(4))
def test_where_agrees_with_a_model_for_random_documents_in_all_spellings(seed: int) -> None:
    rng = random.Random(seed)
    hits = 0
    for _ in range(4000):
        document = generate(rng)
        wanted = ask(rng, document)
        for text in spellings(rng, document):
            expected = model(json.loads(text), wanted)
            assert Where(wanted).match(text) is expected, (wanted, text)
            hits += expected
    assert hits > 2000, "the model says yes often enough"


async def test_where_agrees_with_a_model_for_texts_that_updates_have_made(state: StateManager, raw: redis.Redis) -> None:
    rng = random.Random(5)
    values = (await state.connect()).values(b"docs")
    hits = 0
    for number in range(300):
        await state.set("docs", "k", {"a": 1, "items": [1], "s": "x"})
        operations: list[Any] = []
        for _ in range(rng.randrange(1, 4)):
            name = rng.choice(NAMES).replace("~", "~0").replace("/", "~1")
            operations.append({"op": "set", "path": f"/{name}", "value": generate(rng, 2)})
        operations.append({"op": "increment", "path": "/a", "value": rng.choice([1, 0.5, -1])} if number % 2 else
                          {"op": "append", "path": "/s", "value": rng.choice(["[", 'q"', "é", "\n"])})  # fmt: skip
        try:
            await state.update("docs", "k", operations)
        except StateError:  # an operation does not fit what another one has set
            continue
        text: Any = raw.hget(values, "k")
        document = json.loads(text)
        for _ in range(10):
            wanted = ask(rng, document)
            expected = model(document, wanted)
            assert Where(wanted).match(text) is expected, (wanted, text)
            hits += expected
    assert hits > 300


def test_text_that_is_ruled_out_by_its_bytes_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []
    wheres = [Where({"status": "paid"}), Where({"n": 5}), Where({"n": 0.5}), Where({"done": True}), Where({"/a/status": None})]
    loads = module.orjson.loads
    monkeypatch.setattr(module.orjson, "loads", lambda text: decoded.append(text) or loads(text))
    text = b'{"status":"open","n":55,"done":false,"note":"paid 5 true null"}'
    for where in wheres:
        assert not where.match(text + CANONICAL_MARK)
    assert not wheres[0].match(text.replace(b"paid", b"new"))  # of another client
    assert decoded == []
    assert not wheres[0].match(b'{"status":"open","inner":{"status":"paid"}}' + CANONICAL_MARK)
    assert len(decoded) == 1, "what is found elsewhere leaves it open"


@pytest.mark.parametrize("text", [b"", b"{", b"paid", b'{"status":"paid"', b"\xff", CANONICAL_MARK])
def test_text_that_is_not_json_has_no_members(text: bytes) -> None:
    assert not Where({"status": "paid"}).match(text)
    assert not Where({"0": 1}).match(text + CANONICAL_MARK)


@pytest.mark.parametrize("text", [b"18446744073709551617", b"18446744073709551616.0", b"1.8446744073709552e19"])
def test_integers_of_more_than_64_bits_are_compared_as_python_reads_them(text: bytes) -> None:
    for wanted in (2.0**64, 2**63 * 2.0):
        assert Where({"n": wanted}).match(b'{"n":' + text + b"}" + CANONICAL_MARK)


def test_true_is_not_one_and_null_is_not_missing() -> None:
    assert not Where({"a": True}).match(b'{"a":1}')
    assert not Where({"a": 1}).match(b'{"a":true}')
    assert not Where({"a": [0]}).match(b'{"a":[false]}')
    assert not Where({"a": None}).match(b"{}")
    assert Where({"a": None}).match(b'{"a":null}')


def test_values_are_converted_as_set_converts_them() -> None:
    class Status(Enum):
        PAID = "paid"

    assert Where({"status": Status.PAID}).match(b'{"status":"paid"}')
    assert Where({"pair": (1, 2)}).match(b'{"pair":[1,2.0]}')


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({}, "must be a dict of at least one name and its value, such as {'status': 'paid'}, not {}"),
        ("paid", "not 'paid'"),
        (lambda value: value, "a function is a condition="),
        ({1: "x"}, "a name in the where of a {kind} trigger must be text that is not empty, not 1"),
        ({"": "x"}, "must be text that is not empty, not ''"),
        ({"/a~2": 1}, "the path '/a~2' in the where of a {kind} trigger is no JSON Pointer: 0 or 1 must follow '~'"),
        ({"a": float("nan")}, "the value of 'a' in the where of a {kind} trigger: nan is not a JSON number"),
        ({"a": {"b": {1, 2}}}, "the value of 'a' in the where of a {kind} trigger: at '/b': set is not a JSON value"),
        ({"\ud800": 1}, "holds a lone surrogate"),
    ],
)
@pytest.mark.parametrize("kind", ["state", "queue"])
def test_where_that_does_not_fit_is_rejected_when_the_step_is_made(kind: str, where: Any, message: str) -> None:
    trigger = state_trigger(scope="orders", where=where) if kind == "state" else queue("orders", where=where)
    with pytest.raises(StepError, match=re.escape(message.replace("{kind}", kind))):
        step({"name": "S", "triggers": [trigger]}).handle(_handler)


def test_trigger_says_its_members() -> None:
    assert str(state_trigger(scope="orders", where={"status": "paid"})) == "state orders (where status='paid')"
    assert str(queue("mail", condition=bool, where={"a": 1})) == "queue mail (where a=1, condition)"
    assert hash(state_trigger(where={"a": [1]})) == hash(state_trigger())


async def _handler(input: Any) -> None:
    pass
