"""URLs of several hosts: what they say, and what cannot be used."""

from __future__ import annotations

import pytest

from motia_redis._transport.urls import Target, parse, redact
from motia_redis.errors import StateError


@pytest.mark.parametrize(
    ("url", "target"),
    [
        (
            "redis+cluster://a:1,b:2",
            Target("cluster", ("redis://a:1/0", "redis://b:2/0"), primary="redis://{}/0"),
        ),
        (
            "rediss+cluster://user:p%2Fw@a:1/0?ssl_ca_certs=/ca.pem",
            Target(
                "cluster",
                ("rediss://user:p%2Fw@a:1/0?ssl_ca_certs=/ca.pem",),
                primary="rediss://user:p%2Fw@{}/0?ssl_ca_certs=/ca.pem",
            ),
        ),
        (
            "redis+sentinel://a:1,b:2/mymaster",
            Target("sentinel", ("redis://a:1", "redis://b:2"), "mymaster", "redis://{}/0"),
        ),
        (
            "rediss+sentinel://u:p@a:1/my%20master/3?sentinel_username=s&sentinel_password=x%40y&ssl_cert_reqs=none&client_name=c",
            Target(
                "sentinel",
                ("rediss://s:x%40y@a:1?ssl_cert_reqs=none",),
                "my master",
                "rediss://u:p@{}/3?ssl_cert_reqs=none&client_name=c",
            ),
        ),
        ("redis://a:1/2", Target("single", ("redis://a:1/2",))),
        ("embedded://dir", Target("embedded", ("embedded://dir",))),
    ],
)
def test_what_a_url_says(url: str, target: Target) -> None:
    assert parse(url) == target


def test_a_discovered_address_takes_the_place_of_the_hosts() -> None:
    target = parse("redis+cluster://u:p@a:1?client_name=c")
    assert target.at("10.0.0.1", 7000) == "redis://u:p@10.0.0.1:7000/0?client_name=c"
    assert target.at("::1", 7000) == "redis://u:p@[::1]:7000/0?client_name=c"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis+cluster://", "a host is missing"),
        ("redis+cluster://a:1,,b:2", "a host is missing"),
        ("redis+cluster://u:secret@a:port", "malformed"),
        ("redis+cluster://a:1/3", "a Cluster has the database 0 alone"),
        ("redis+cluster://a:1?db=3", "db is given twice"),
        ("redis+cluster://a:1?sentinel_password=secret", "need redis\\+sentinel"),
        ("redis+cluster://a:1?ssl_cert_reqs=none", "needs rediss://"),
        ("redis+sentinel://u:secret@a:1,b:2", "name of the service"),
        ("redis+sentinel://a:1/", "name of the service"),
        ("redis+sentinel://a:1/mymaster/x", "the database must be a number"),
        ("redis+sentinel://a:0/mymaster", "malformed"),
        ("redis://a:1?sentinel_password=secret", "unknown option 'sentinel_password'"),
    ],
)
def test_what_cannot_be_used_is_told_without_the_password(url: str, says: str) -> None:
    with pytest.raises(StateError, match=says) as told:
        parse(url)
    assert "secret" not in str(told.value)


def test_hosts_are_shown_and_users_are_not() -> None:
    assert redact("redis+sentinel://u:secret@a:1,b:2/mymaster?sentinel_password=secret") == "redis+sentinel://a:1,b:2/mymaster"
