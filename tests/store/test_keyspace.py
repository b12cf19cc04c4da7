"""Keyspace: the names of the keys, and all keys of one mutation in one slot."""

from __future__ import annotations

import pytest
from redis.crc import key_slot

from motia_redis._store.keyspace import Keyspace, Layout, tag
from motia_redis.errors import StateError

SCOPES = [b"users", b"{a}", b"}{", b"a\nb", "👩".encode(), b":" * 9]


@pytest.mark.parametrize("scope", SCOPES)
def test_all_keys_of_a_mutation_are_in_one_slot(scope: bytes) -> None:
    keys = Keyspace("motia", Layout()).state_keys(scope, b"}key{")
    assert len({key_slot(key) for key in (keys.values, keys.revisions, keys.scopes, keys.events)}) == 1


def test_dead_letters_are_in_the_slot_of_their_event() -> None:
    keyspace = Keyspace("motia", Layout())
    stream = keyspace.topic(b"a}:b", 3)
    assert key_slot(keyspace.dead(stream, "Step}")) == key_slot(stream)


def test_redis_key_names_match_the_documented_layout() -> None:
    keyspace = Keyspace("motia", Layout())
    partition = keyspace.partition(b"users")
    tag = b"{motia:%d}:" % partition
    keys = keyspace.state_keys(b"users", b"ann")
    lane = keyspace.lane(b"ann")
    assert (keys.values, keys.revisions) == (tag + b"state:users", tag + b"revision:users")
    assert (keys.scopes, keys.events) == (tag + b"scopes", tag + b"events:%d" % lane)
    assert keyspace.values(b"users") == keys.values
    assert keyspace.revisions(b"users") == keys.revisions


def test_event_streams_of_a_key_are_the_stream_of_its_lane() -> None:
    keyspace = Keyspace("motia", Layout(4, 4))
    for scope in ("users", "orders"):
        for key in ("ann", "bob", "x"):
            events = keyspace.state_keys(scope.encode(), key.encode()).events
            assert keyspace.event_streams(scope, key) == [events]
            assert events in keyspace.event_streams(scope)
            assert events in keyspace.event_streams()
    assert len(keyspace.event_streams()) == 16


TAGS = [
    (b"users", b"users"),
    (b"{acme}/carts", b"acme"),
    (b"eu{acme}{x}", b"acme"),
    (b"{}/carts", b"{}/carts"),
    (b"{acme/carts", b"{acme/carts"),
    (b"}{acme}", b"acme"),
    (b"{{acme}}", b"{acme"),
]


@pytest.mark.parametrize(("name", "expected"), TAGS)
def test_tag_follows_the_rule_of_redis(name: bytes, expected: bytes) -> None:
    assert tag(name) == expected
    assert key_slot(name) == key_slot(expected)
    for layout in (Layout(), Layout(7, 2), Layout(16384, 1)):
        keyspace = Keyspace("motia", layout)
        assert keyspace.partition(name) == keyspace.partition(b"{%b}/other" % expected if b"{" not in expected else name)


def test_scopes_and_keys_spread_evenly() -> None:
    keyspace = Keyspace("motia", Layout())
    names = [b"%d" % number for number in range(2000)]
    assert {keyspace.partition(name) for name in names} == set(range(16))
    assert {keyspace.lane(name) for name in names} == set(range(8))


@pytest.mark.parametrize("layout", [(0, 8), (16, 0), (20000, 8)])
def test_invalid_layout_is_rejected(layout: tuple[int, int]) -> None:
    with pytest.raises(StateError, match="a layout must have"):
        Layout(*layout)
