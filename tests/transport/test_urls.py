"""URLs: which are valid, what they contain, and what messages show of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from motia_redis import StateManager
from motia_redis._transport import endpoint
from motia_redis._transport.urls import Server, Target, Tls, parse, redact
from motia_redis.errors import StateError, StateUnavailable

LOGGED_IN = Server("a", 1, username="user", password="p/w", tls=Tls(ca_certs="/ca.pem"))


@pytest.mark.parametrize(
    ("url", "target"),
    [
        (
            "redis+cluster://a:1,b:2",
            Target("cluster", (Server("a", 1), Server("b", 2)), primary=Server("a", 1)),
        ),
        (
            "rediss+cluster://user:p%2Fw@a:1/0?ssl_ca_certs=/ca.pem",
            Target("cluster", (LOGGED_IN,), primary=LOGGED_IN),
        ),
        (
            "redis+sentinel://a:1,b:2/mymaster",
            Target("sentinel", (Server("a", 1), Server("b", 2)), "mymaster", Server("a", 1)),
        ),
        (
            "rediss+sentinel://u:p@a:1/my%20master/3?sentinel_username=s&sentinel_password=x%40y&ssl_cert_reqs=none&client_name=c",
            Target(
                "sentinel",
                (Server("a", 1, username="s", password="x@y", tls=Tls(cert_reqs="none")),),
                "my master",
                Server("a", 1, username="u", password="p", database=3, client_name="c", tls=Tls(cert_reqs="none")),
            ),
        ),
        ("redis://a:1/2", Target("single", (Server("a", 1, database=2),))),
        ("redis://:p@a?db=4", Target("single", (Server("a", 6379, password="p", database=4),))),
        ("redis://[::1]:2", Target("single", (Server("::1", 2),))),
        (
            "unix://u:p@/tmp/a%20b.sock?db=1",
            Target("single", (Server(path="/tmp/a b.sock", username="u", password="p", database=1),)),
        ),
        (
            "rediss://a?ssl_check_hostname=False&ssl_certfile=/c&ssl_keyfile=/k&ssl_password=s",
            Target("single", (Server("a", tls=Tls(certfile="/c", keyfile="/k", password="s", check_hostname=False)),)),
        ),
        ("embedded://dir", Target("embedded", directory="dir")),
    ],
)
def test_parse_returns_the_parts_of_a_url(url: str, target: Target) -> None:
    assert parse(url) == target


def test_at_keeps_the_login_at_a_discovered_address() -> None:
    primary = parse("redis+cluster://u:p@a:1?client_name=c").primary
    assert primary.at("10.0.0.1", 7000) == Server("10.0.0.1", 7000, username="u", password="p", client_name="c")
    assert primary.at("::1", 7000).address == "[::1]:7000"


def test_repr_of_a_target_shows_no_password() -> None:
    target = parse("rediss+sentinel://u:secret@a/m?sentinel_password=secret&ssl_password=secret")
    assert "secret" not in repr(target)


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://host",
        "redis://user:p%2Fw@host:1/5",
        "redis://[::1]:6379/",
        "redis://host?db=3&client_name=orders",
        "rediss://host?ssl_cert_reqs=none&ssl_ca_certs=/etc/ca.pem&ssl_check_hostname=false",
        "unix:///tmp/a@b.sock?db=1",
        "unix://user:pw@/tmp/x.sock",
        "embedded://",
        "embedded:///srv/c#?",
    ],
)
async def test_valid_url_is_accepted(url: str) -> None:
    place = endpoint.Endpoint(url)
    if not url.startswith("embedded://"):
        await (await place.open_router(max_connections=1, reply_timeout=1.0)).aclose()


# -- errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://[bad", "malformed"),
        ("redis://:secret@[bad", "malformed"),
        ("redis://host:port/0", "malformed"),
        ("redis://host:99999/0", "malformed"),
        ("redis://host:0/0", "malformed"),
        ("redis://host/0#secret", "malformed"),
        ("redis://:12/secret@host", "database must be a number"),
        ("redis://:12?secret=x@host", "malformed"),
        ("redis://user:secret#x@host/0", "malformed"),
        ("redis://host?foo=secret", "unknown option 'foo'"),
        ("redis://host?foo", "malformed"),
        ("redis://host?decode_responses=true", "unknown option 'decode_responses'"),
        ("redis://host?protocol=3", "unknown option 'protocol'"),
        ("redis://host?socket_timeout=0.2", "unknown option 'socket_timeout'"),
        ("redis://host?password=secret", "password must be before the host"),
        ("unix:///tmp/x.sock?password=secret", "password must be before the host"),
        ("redis://host?ssl_cert_reqs=none", "needs rediss://"),
        ("rediss://host?ssl_cert_reqs=sometimes", "ssl_cert_reqs has an invalid value"),
        ("rediss://host?ssl_check_hostname=perhaps", "ssl_check_hostname has an invalid value"),
        ("redis://host?db=one", "db has an invalid value"),
        ("redis://host?db=", "db has an invalid value"),
        ("redis://host/1?db=2", "db is given twice"),
        ("redis://host/notadb", "database must be a number"),
        ("redis://host/0/1", "database must be a number"),
        ("redis://host/-1", "database must be a number"),
        ("unix://", "must be absolute"),
        ("unix://run/redis.sock", "must be absolute"),
        ("redis://ho\nst", "control character"),
        ("embedded://a\x00b", "control character"),
        ("embedded://user:secret@/data", "a folder has no user and no password"),
        ("user:secret@host:6379", "none of the known schemes"),
        ("http://user:secret@host", "none of the known schemes"),
        (b"redis://:secret@host", "must be a string"),
        (Path("/secret"), "must be a string"),
        ("", "is empty"),
        ("redis://:secret", "malformed"),
        ("redis://:12345", "host is missing"),
        ("redis://:secret@", "host is missing"),
        ("redis://:secret@:6379/0", "host is missing"),
        ("redis://user:secret", "malformed"),
        ("redis://user:secret/0", "malformed"),
        ("redis+cluster://user:secret", "malformed"),
        ("redis+sentinel://user:secret/mymaster", "malformed"),
        ("redis://host?Secret!=1", "unknown option \\.\\.\\."),
        ("secret", "none of the known schemes"),
    ],
)
async def test_connect_rejects_an_invalid_url_without_its_password(url: Any, reason: str) -> None:
    with pytest.raises(StateError, match=reason) as error:
        await StateManager(url).connect()
    assert "secret" not in str(error.value)
    assert type(error.value) is StateError
    assert error.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis+cluster://", "a host is missing"),
        ("redis+cluster://a:1,,b:2", "a host is missing"),
        ("redis+cluster://u:secret@a:port", "malformed"),
        ("redis+cluster://a:1/3", "a Cluster has only database 0"),
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
def test_invalid_url_of_several_hosts_is_rejected_without_its_password(url: str, reason: str) -> None:
    with pytest.raises(StateError, match=reason) as error:
        parse(url)
    assert "secret" not in str(error.value)


# -- messages -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:secret@host:1/0?db=1", "redis://host:1/0"),
        ("redis://host?password=secret", "redis://host"),
        ("redis://host?password=sec@ret", "redis://..."),
        ("redis://:sec?ret@host", "redis://..."),
        ("redis://:sec/ret@host", "redis://host"),
        ("redis://:sec@ret@host", "redis://host"),
        ("unix://user:secret@/tmp/x", "unix:///tmp/x"),
        ("unix:///tmp/a@b?db=1", "unix:///tmp/a@b"),
        ("redis://[bad", "redis://..."),
        ("secret@host", "..."),
        ("me:secret://x@host", "..."),
        ("embedded://a@b", "embedded://a@b"),
        # Without @host, of an unset variable for example, a password stands where something else is expected.
        ("redis://:secret", "redis://:..."),
        ("redis://:12345", "redis://:..."),
        ("redis://user:secret", "redis://user:..."),
        ("redis://user:secret/0", "redis://user:.../..."),
        ("redis://user:sec/ret", "redis://user:.../..."),
        ("redis://host/secret", "redis://host/..."),
        ("redis://:secret:6379", "redis://:..."),
        ("redis://user:p@host:secret", "redis://host:..."),
        ("redis://sec!ret", "redis://..."),
        ("redis://host:99999999", "redis://host:..."),
        ("redis+cluster://user:secret", "redis+cluster://user:..."),
        ("redis+cluster://a:1,user:secret", "redis+cluster://a:1,user:..."),
        ("redis+sentinel://user:secret/mymaster", "redis+sentinel://user:.../..."),
        ("redis+sentinel://a:1/my secret", "redis+sentinel://a:1/..."),
        ("unix://:secret", "unix://..."),
        ("unix://user:secret/tmp/x", "unix://..."),
        ("http://user:secret", "http://user:..."),
        ("secret", "..."),
        (":secret@", "..."),
        ("redis:secret", "..."),
        ("redis://host\nsecret", "..."),
        ("", "..."),
        (b"redis://:secret@host", "..."),
        ("redis+sentinel://a:1,[::1]:2/mymaster/3", "redis+sentinel://a:1,[::1]:2/mymaster/3"),
        ("http://localhost", "http://localhost"),
        ("embedded://user:secret@/data", "embedded://...@/data"),
        ("embedded://:sec@ret@data", "embedded://...@data"),
        ("embedded://a@b/c:d@e", "embedded://a@b/c:d@e"),
    ],
)
def test_redact_removes_secrets(url: Any, shown: str) -> None:
    assert redact(url) == shown


def test_redact_keeps_hosts_and_removes_users() -> None:
    assert redact("redis+sentinel://u:secret@a:1,b:2/mymaster?sentinel_password=secret") == "redis+sentinel://a:1,b:2/mymaster"


@pytest.mark.parametrize(
    "url", ["redis://user:secret@host", "redis://:secret", "secret", "redis://host?sentinel_password=secret"]
)
def test_repr_of_a_manager_shows_url_and_namespace_without_secrets(url: str) -> None:
    text = repr(StateManager(url, namespace="orders"))
    assert text == f"<StateManager {redact(url)} namespace='orders'>"
    assert "secret" not in text


def test_repr_of_a_manager_without_settings_shows_what_it_would_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTIA_REDIS_URL", "redis://:secret@cache:7/0")
    monkeypatch.setenv("MOTIA_REDIS_NAMESPACE", "orders")
    assert repr(StateManager()) == "<StateManager redis://cache:7/0 namespace='orders'>"
    monkeypatch.setenv("MOTIA_REDIS_URL", "")
    assert "$MOTIA_REDIS_URL is empty" in repr(StateManager())


async def test_empty_variable_is_rejected_and_does_not_select_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOTIA_REDIS_URL", "")
    with pytest.raises(StateError, match="MOTIA_REDIS_URL is empty"):
        await StateManager().connect()
    with pytest.raises(StateError, match="is empty"):
        await StateManager("").connect()
    monkeypatch.setenv("MOTIA_REDIS_NAMESPACE", "")
    with pytest.raises(StateError, match="namespace"):
        await StateManager("redis://127.0.0.1:1").connect()
    assert list(tmp_path.iterdir()) == []


# -- directories of embedded servers ---------------------------------------------------------------------------------------


async def test_embedded_url_without_directory_uses_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with StateManager("embedded://") as state:
        await state.set("users", "ann", 1)
    assert [path.name for path in tmp_path.iterdir()] == [".motia"]


async def test_embedded_url_of_an_unknown_user_is_rejected() -> None:
    with pytest.raises(StateError, match="nosuchuser"):
        await StateManager("embedded://~nosuchuser/x").connect()


async def test_host_name_that_cannot_be_is_an_unavailable_redis() -> None:
    with pytest.raises(StateUnavailable, match=r"the host has no valid name while connecting to h{300}:6379"):
        await StateManager(f"redis://{'h' * 300}").get("s", "k")


async def test_refused_connection_is_described_without_the_words_of_an_event_loop() -> None:
    with pytest.raises(StateUnavailable, match=r"redis://127.0.0.1:1: Connection refused while connecting to 127.0.0.1:1"):
        await StateManager("redis://127.0.0.1:1").get("s", "k")
