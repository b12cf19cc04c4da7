"""Parse and check the URL of a Redis, and redact it for messages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from motia_redis.errors import StateError

DEFAULT_URL = "embedded://.motia"
EMBEDDED = "embedded://"

_FORMS = (
    "redis://user:password@host:port/0, rediss://, unix:///path, redis+sentinel://host:port,host:port/service, "
    "redis+cluster://host:port,host:port or embedded://dir"
)
_MALFORMED = "host, port or options are malformed (a password needs %-escapes for / ? # @ : [ ])"
_SENTINEL, _CLUSTER = ("redis+sentinel", "rediss+sentinel"), ("redis+cluster", "rediss+cluster")
_FILE = re.compile(".+", re.DOTALL)
#: The allowed options after the `?` of a URL. redis-py has more, but most would break assumptions of this library.
_OPTIONS = {
    "db": re.compile(r"[0-9]{1,6}"),
    "client_name": re.compile(r"[!-~]+"),
    "ssl_keyfile": _FILE,
    "ssl_certfile": _FILE,
    "ssl_password": _FILE,
    "ssl_ca_certs": _FILE,
    "ssl_ca_path": _FILE,
    "ssl_ciphers": _FILE,
    "ssl_cert_reqs": re.compile("none|optional|required"),
    "ssl_check_hostname": re.compile("true|false", re.IGNORECASE),
    "sentinel_username": _FILE,
    "sentinel_password": _FILE,
}


@dataclass(frozen=True, slots=True)
class Target:
    """Hold the parts of a URL. `seeds` are plain URLs of the one Redis, of the sentinels, or of nodes of the Cluster."""

    kind: str  #: "single", "sentinel", "cluster" or "embedded"
    seeds: tuple[str, ...]
    service: str = ""  #: sentinel: the name of the primary
    primary: str = ""  #: sentinel and cluster: the URL of a primary, with `{}` instead of host and port

    def at(self, host: str, port: int) -> str:
        """Return the plain URL of a primary at a discovered address."""
        return self.primary.replace("{}", f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def redact(url: str) -> str:
    """Return `url` without user, password and options, for messages. Never raises, even for a malformed URL."""
    scheme, separator, rest = url.partition("://")
    if not separator or not re.fullmatch("[A-Za-z+.-]+", scheme):
        return re.split("[?#]", url.rpartition("@")[2])[0]
    if scheme == "embedded":  # a path, which has no password
        return url
    shown, *options = re.split("[?#]", rest, maxsplit=1)
    if scheme == "unix" and rest.startswith("/"):  # a path, which may contain an @
        return f"{scheme}://{shown}"
    if options and "@" not in shown and "@" in options[0]:
        return f"{scheme}://..."  # perhaps a password that contains a ? or #
    return f"{scheme}://{shown.rpartition('@')[2]}"


def parse(url: object) -> Target:
    """Return the parts of the URL of a Redis.

    Raises StateError with the reason if the library cannot use the URL. The message never contains a password.
    """
    if not isinstance(url, str):
        raise StateError(f"the URL of a Redis must be a string, not {type(url).__name__}: {url!r:.80}")
    scheme = url.partition("://")[0] if "://" in url else ""
    fault = _several_fault(url, scheme) if scheme in _SENTINEL + _CLUSTER else _fault(url, scheme)
    if fault:
        raise StateError(f"{redact(url)!r} is not the URL of a Redis: {fault}; use {_FORMS}")
    if scheme in _SENTINEL:
        return _sentinel(url)
    if scheme in _CLUSTER:
        login, hosts, _, query = _parts(url)
        plain = f"{_plain_scheme(url)}://{login}{{}}/0{query}"
        return Target("cluster", tuple(plain.replace("{}", host) for host in hosts), primary=plain)
    return Target("embedded" if scheme == "embedded" else "single", (url,))


def _sentinel(url: str) -> Target:
    login, hosts, path, query = _parts(url)
    service, _, database = path.partition("/")
    options = parse_qsl(query.removeprefix("?"))
    own = "".join(f"&{pair}" for pair in query.removeprefix("?").split("&") if pair and not pair.startswith("sentinel_"))
    scheme, given = _plain_scheme(url), dict(options)
    # Sentinels have separate users. TLS applies to sentinels and servers alike.
    user, secret = (_quoted(query, name) for name in ("sentinel_username", "sentinel_password"))
    sentinel_login = f"{user}:{secret}@" if "sentinel_password" in given else ""
    tls = "".join(f"&{pair}" for pair in own.split("&") if pair.startswith("ssl_"))
    seeds = tuple(f"{scheme}://{sentinel_login}{host}{_query(tls)}" for host in hosts)
    return Target("sentinel", seeds, unquote(service), f"{scheme}://{login}{{}}/{database or 0}{_query(own)}")


def _quoted(query: str, name: str) -> str:
    """Return the value of an option as written in the URL, with its escapes."""
    return next((pair.partition("=")[2] for pair in query.removeprefix("?").split("&") if pair.partition("=")[0] == name), "")


def _query(options: str) -> str:
    return f"?{options.lstrip('&')}" if options else ""


def _plain_scheme(url: str) -> str:
    return url.partition("+")[0]


def _parts(url: str) -> tuple[str, list[str], str, str]:
    """Return login (with its @), hosts, path (without the first slash) and query (with its ?) of a URL of several hosts."""
    rest, mark, query = url.partition("://")[2].partition("?")
    authority, _, path = rest.partition("/")
    login, at, hosts = authority.rpartition("@")
    return login + at, hosts.split(","), path, mark + query


def _several_fault(url: str, scheme: str) -> str | None:
    """Return the fault of a URL of several hosts, or None."""
    login, hosts, path, query = _parts(url)
    if scheme in _SENTINEL:
        service, _, database = path.partition("/")
        if not re.fullmatch(r"[A-Za-z0-9._%-]+", service):
            return "the name of the service must follow the sentinels: redis+sentinel://host:port,host:port/mymaster"
        if not re.fullmatch(r"[0-9]{0,6}", database):
            return "the database must be a number"
    elif path not in ("", "0"):
        return "a Cluster has only database 0"
    elif "sentinel_" in query:
        return "the sentinel_ options need redis+sentinel://"
    if not all(hosts):
        return "a host is missing between the commas"
    faults = (_fault(f"{_plain_scheme(url)}://{login}{host}{query}", _plain_scheme(url), several=True) for host in hosts)
    return next((fault for fault in faults if fault), None)


def _fault(url: str, scheme: str, *, several: bool = False) -> str | None:
    """Return the fault of a URL, without quoting a possible password, or None."""
    if any(character < " " for character in url):
        return "the URL contains a control character"
    if scheme == "embedded":
        return None
    if scheme not in ("redis", "rediss", "unix"):
        return "the URL begins with none of the known schemes"
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        return _MALFORMED
    if port == 0 or parts.fragment or "@" in parts.query:
        return _MALFORMED
    if scheme == "unix":
        fault = "the socket's path must be absolute, unix:///path" if host or not parts.path else None
    else:
        fault = None if re.fullmatch(r"(/[0-9]{0,6})?", parts.path) else "the database must be a number"
    return fault or _option_fault(
        scheme, options, db_given=several or (scheme != "unix" and len(parts.path) > 1), several=several
    )


def _option_fault(scheme: str, options: list[tuple[str, str]], *, db_given: bool, several: bool) -> str | None:
    """Return the fault of the first invalid option, or None."""
    known = [name for name in _OPTIONS if several or not name.startswith("sentinel_")]
    seen = {"db"} if db_given else set()
    for name, value in options:
        if name in ("username", "password"):
            return f"{name} must be before the host, not after the `?`"
        if name not in known:
            return f"unknown option {name!r:.40} (known: {', '.join(known)})"
        if name.startswith("ssl_") and scheme != "rediss":
            return f"option {name} needs rediss://"
        if name in seen:
            return f"{name} is given twice"
        if not _OPTIONS[name].fullmatch(value):
            return f"option {name} has an invalid value"
        seen.add(name)
    return None
