"""Parse and check the URL of a Redis, and redact it for messages."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from motia_redis.errors import StateError

EMBEDDED = "embedded://"
DEFAULT_DIRECTORY = ".motia"
DEFAULT_URL = EMBEDDED + DEFAULT_DIRECTORY

_FORMS = (
    "redis://user:password@host:port/0, rediss://, unix:///path, redis+sentinel://host:port,host:port/service, "
    "redis+cluster://host:port,host:port or embedded://dir"
)
_MALFORMED = "host, port or options are malformed (a password is followed by @host, and needs %-escapes for / ? # @ : [ ])"
_SENTINEL, _CLUSTER = ("redis+sentinel", "rediss+sentinel"), ("redis+cluster", "rediss+cluster")
_FILE = re.compile(".+", re.DOTALL)
#: A host, and perhaps a port, as they may be shown: what has another form may be a password.
_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.%]+\])(:[0-9]{1,5})?")
_HIDDEN = "..."
_CREDENTIALS = re.compile("[^/@]*:[^/]*@")  # at the beginning of a folder
_DATABASE, _SERVICE = re.compile("[0-9]{0,6}"), re.compile("[A-Za-z0-9._%-]+(/[0-9]{0,6})?")
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
class Tls:
    """The TLS options of a URL. `cert_reqs` is none, optional or required."""

    keyfile: str | None = None
    certfile: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_certs: str | None = None
    ca_path: str | None = None
    ciphers: str | None = None
    cert_reqs: str = "required"
    check_hostname: bool = True


@dataclass(frozen=True, slots=True)
class Server:
    """Where one server listens, and how to log in. A server with a `path` listens on a Unix socket."""

    host: str = "localhost"
    port: int = 6379
    path: str = ""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    client_name: str | None = None
    tls: Tls | None = None

    @property
    def address(self) -> str:
        """Return the path of the socket, or host and port."""
        return self.path or (f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}")

    def at(self, host: str, port: int) -> Server:
        """Return the server at another address, with the same login."""
        return replace(self, host=host, port=port, path="")


@dataclass(frozen=True, slots=True)
class Target:
    """The meaning of a URL. `seeds` are the one Redis, the sentinels, or some nodes of the Cluster."""

    kind: Literal["single", "sentinel", "cluster", "embedded"]
    seeds: tuple[Server, ...] = ()
    service: str = ""  #: the sentinels' name of the primary
    primary: Server = Server()  #: login and options of a primary, whose address is discovered
    directory: str = ""  #: of the embedded server


def redact(url: object) -> str:
    """Return `url` without user, password and options, for messages and logs. Never raises.

    Only what has the form of a host, a port, a database or a path is shown. All else may be a part of a password, which stands
    where a host is expected in a URL without `@host` (of an unset variable, for example).
    """
    if not isinstance(url, str) or not url.isprintable():
        return _HIDDEN
    scheme, separator, rest = url.partition("://")
    if not separator or not re.fullmatch("[A-Za-z][A-Za-z+.-]{0,19}", scheme):
        return _HIDDEN
    if scheme == "embedded":  # a path, which has no password
        credentials = _CREDENTIALS.match(rest)
        return f"{scheme}://{_HIDDEN}@{rest[credentials.end() :]}" if credentials else url
    shown, *options = re.split("[?#]", rest, maxsplit=1)
    if options and "@" not in shown and "@" in options[0]:
        return f"{scheme}://{_HIDDEN}"  # perhaps a password that contains a ? or #
    if scheme == "unix":
        path = shown if shown.startswith("/") else shown.rpartition("@")[2]  # a path may contain an @
        return f"{scheme}://{path if path.startswith('/') else _HIDDEN}"
    hosts, slash, path = shown.rpartition("@")[2].partition("/")
    visible = ",".join(map(_redact_host, hosts.split(",")))
    if _HIDDEN in visible or not (_SERVICE if scheme in _SENTINEL else _DATABASE).fullmatch(path):
        path = path and _HIDDEN
    return f"{scheme}://{visible}{slash}{path}"


def _redact_host(host: str) -> str:
    """Return a host with its port; only the host if what follows is no port, and nothing of what is no host."""
    if not host or _HOST.fullmatch(host):
        return host
    name = host.partition(":")[0]
    return f"{name if _HOST.fullmatch(name) else ''}:{_HIDDEN}" if ":" in host and not host.startswith("[") else _HIDDEN


def choose(given: str | None, environment: str | None) -> str:
    """Return the URL to use: that of the caller, that of `$MOTIA_REDIS_URL`, or the default.

    Raises StateError for an empty one: it comes from an unset variable, and the default would silently be another database.
    """
    for url, source in ((given, "the URL of a Redis"), (environment, "$MOTIA_REDIS_URL")):
        if url is not None:
            if url == "":
                raise StateError(f"{source} is empty: set it to the URL of a Redis, or leave it unset to use {DEFAULT_URL}")
            return url
    return DEFAULT_URL


def parse(url: object) -> Target:
    """Return the parts of the URL of a Redis.

    Raises StateError with the reason if the library cannot use the URL. The message never contains a password.
    """
    if not isinstance(url, str):
        raise StateError(f"the URL of a Redis must be a string, not {type(url).__name__}")
    scheme = url.partition("://")[0] if "://" in url else ""
    fault = _several_fault(url, scheme) if scheme in _SENTINEL + _CLUSTER else _fault(url, scheme)
    if fault:
        raise StateError(f"{redact(url)!r} is not the URL of a Redis: {fault}; use {_FORMS}")
    if scheme == "embedded":
        return Target("embedded", directory=url.removeprefix(EMBEDDED))
    if scheme in _SENTINEL:
        return _sentinel(url)
    if scheme in _CLUSTER:
        login, hosts, _, query = _parts(url)
        seeds = tuple(_server(f"{_plain_scheme(url)}://{login}{host}{query}") for host in hosts)
        return Target("cluster", seeds, primary=seeds[0])
    return Target("single", (_server(url),))


def _server(url: str) -> Server:
    """Return the server of a URL of one host, which has no fault."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    tls = {name.removeprefix("ssl_"): value for name, value in options.items() if name.startswith("ssl_")}
    given: dict[str, Any] = dict(tls)
    if "check_hostname" in tls:
        given["check_hostname"] = tls["check_hostname"].lower() == "true"
    database = options.get("db") or (parts.path.strip("/") if parts.scheme != "unix" else "")
    return Server(
        host=parts.hostname or "localhost",
        port=parts.port or 6379,
        path=unquote(parts.path) if parts.scheme == "unix" else "",
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        database=int(database or 0),
        client_name=options.get("client_name"),
        tls=Tls(**given) if parts.scheme == "rediss" else None,
    )


def _sentinel(url: str) -> Target:
    login, hosts, path, query = _parts(url)
    service, _, database = path.partition("/")
    primary = _server(f"{_plain_scheme(url)}://{login}{hosts[0]}/{database}{query}")
    # Sentinels have users of their own, if any. TLS is for all servers or none.
    options = dict(parse_qsl(query.removeprefix("?")))
    user, password = options.get("sentinel_username"), options.get("sentinel_password")
    sentinels = (_server(f"{_plain_scheme(url)}://{host}") for host in hosts)
    seeds = tuple(replace(sentinel, username=user, password=password, tls=primary.tls) for sentinel in sentinels)
    return Target("sentinel", seeds, unquote(service), primary)


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
        return "a folder has no user and no password" if _CREDENTIALS.match(url.removeprefix(EMBEDDED)) else None
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
    elif not re.fullmatch(r"(/[0-9]{0,6})?", parts.path):
        fault = "the database must be a number"
    else:  # what seems to be the port may be a password without @host
        fault = "the host is missing" if parts.netloc and not host else None
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
            shown = repr(name) if re.fullmatch("[a-z_]{1,40}", name) else _HIDDEN  # perhaps a part of a password
            return f"unknown option {shown} (known: {', '.join(known)})"
        if name.startswith("ssl_") and scheme != "rediss":
            return f"option {name} needs rediss://"
        if name in seen:
            return f"{name} is given twice"
        if not _OPTIONS[name].fullmatch(value):
            return f"option {name} has an invalid value"
        seen.add(name)
    return None
