"""How a stored text carries the time at which its value expires."""

from __future__ import annotations

import math
import random
import time
from typing import Any

import orjson
import pytest

from motia_redis import KEEP, StateManager
from motia_redis._store import expiry
from motia_redis._store.codec import CANONICAL_MARK
from motia_redis._store.expiry import FOREIGN_MARK
from motia_redis.errors import InvalidTime


def spell(milliseconds: int) -> bytes:
    """Spell a time independently of the library: two bits a byte."""
    digits = []
    for _ in range(24):
        milliseconds, digit = divmod(milliseconds, 4)
        digits.append(b" \t\n\r"[digit : digit + 1])
    return b"".join(reversed(digits))


@pytest.mark.parametrize("mark", [CANONICAL_MARK, FOREIGN_MARK])
def test_time_is_read_from_the_white_space(mark: bytes) -> None:
    random.seed(3)
    for milliseconds in [0, 1, 4**24 - 1, *(random.getrandbits(48) for _ in range(1000))]:
        text = b'{"a":1}' + spell(milliseconds) + mark
        assert expiry.expires_at(text) == milliseconds / 1000
        assert orjson.loads(text) == {"a": 1}


@pytest.mark.parametrize(
    "text",
    [
        b"1" + CANONICAL_MARK, b"1", b"", b"{}\n", b'{"a": 1}\r\n\r\n', b" " * 40, b"1" + b"\t" * 30,
        b"[]" + b" " * 23 + CANONICAL_MARK,
        b'" "' + CANONICAL_MARK, b'"' + b" " * 40 + b'"' + CANONICAL_MARK,
    ],
)  # fmt: skip
def test_other_texts_have_no_time(text: bytes) -> None:
    assert expiry.expires_at(text) is None
    assert not expiry.is_expired(text)


def test_page_loses_what_has_expired_and_keeps_the_rest() -> None:
    now = int(time.time() * 1000)
    page = {
        b"past": b"1" + spell(now - 1) + CANONICAL_MARK,
        b"future": b"2" + spell(now + 60_000) + CANONICAL_MARK,
        b"never": b"3" + CANONICAL_MARK,
        b"foreign": b"4",
    }
    assert expiry.live(page) == {key: page[key] for key in (b"future", b"never", b"foreign")}
    lasting = {b"never": page[b"never"]}
    assert expiry.live(lasting) is lasting


@pytest.mark.parametrize("digits", [b"", b" " * 23, b"-" + b" " * 23, b" _" * 11 + b"  ", b"0" * 23 + b" ", b"\v" + b" " * 23])
def test_other_bytes_are_no_time(digits: bytes) -> None:
    for mark in (CANONICAL_MARK, FOREIGN_MARK):
        assert expiry.expires_at(digits + mark) is None


@pytest.mark.parametrize("ttl", [0, -1, 0.0, math.nan, math.inf, -math.inf, True, False, "60", 10 * 366 * 86_400 + 1, b"1", [1]])
async def test_bad_ttl_is_rejected_before_anything_is_sent(ttl: Any) -> None:
    state = StateManager("redis://127.0.0.1:1")
    for call in (
        state.set("users", "ann", 1, ttl=ttl),
        state.update("users", "ann", [], ttl=ttl),
        state.expire("users", "ann", ttl),
    ):
        with pytest.raises(InvalidTime, match="ttl must be a number of seconds above 0 and at most ten years, None"):
            await call
    with pytest.raises(InvalidTime, match="ttl of scope 'users'"):
        StateManager("redis://127.0.0.1:1", ttl={"users": ttl})


def test_keep_says_what_it_is() -> None:
    assert repr(KEEP) == "KEEP"
