"""Name all keys in Redis, and assign scopes and keys to partitions and lanes.

All keys of one partition share the hash tag `{<namespace>:<partition>}`, so that all keys of one script call are in one
Cluster slot. `docs/internals.md` lists the keys.
"""

from __future__ import annotations

import re
from binascii import crc_hqx
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from motia_redis.errors import InvalidName, StateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: The version of everything that the library stores in Redis.
FORMAT_VERSION = 6
#: How names begin that the library keeps for values, messages and streams of its own.
RESERVED = b"@motia/"
_CRON = b"cron"  # the name by which all cron triggers have one partition
_REVISION = re.compile("[0-9]{1,20}-[0-9]{1,20}")
_MESSAGE_ID = re.compile("([0-9]{1,5})-[0-9a-f]{16}")
_HASHES = 0x10000  # of names, of which the layout makes partitions
_NAMESPACE = re.compile(r"[A-Za-z0-9._:-]{1,64}")


@dataclass(frozen=True, slots=True)
class Layout:
    """Set the number of partitions of a namespace and of lanes of each partition. It is fixed when the namespace is created.

    `motia-redis copy` moves to another one, in another namespace. Partitions spread scopes over the slots of a Cluster. Lanes let
    many processes consume one busy scope.
    """

    partitions: int = 16
    lanes: int = 8

    def __post_init__(self) -> None:
        if not (1 <= self.partitions <= 16384 and 1 <= self.lanes <= 1024):
            raise StateError(f"a layout must have 1 to 16384 partitions and 1 to 1024 lanes, not {self}")


class Reserved(str):
    """A scope that begins with `RESERVED`: made by the library, and accepted by all calls that take a scope."""

    __slots__ = ()


class Subject:
    """Name the scope and key of a call in error messages. The text is built only when an error needs it."""

    __slots__ = ("key", "scope")

    def __init__(self, scope: object, key: object) -> None:
        self.scope: object = scope
        self.key: object = key

    def __str__(self) -> str:
        return f"scope {self.scope!r:.200} key {self.key!r:.200}"


class Sending:
    """Name a call in error messages, and the scope or topic of each event and message that it writes."""

    __slots__ = ("destinations", "text")

    def __init__(self, text: str, destinations: Sequence[str | bytes]) -> None:
        self.text = text
        self.destinations = destinations

    def __str__(self) -> str:
        return self.text


class StateKeys(NamedTuple):
    """The Redis keys of one key: the hashes of values and revisions, the set of scopes, and the event stream of its lane."""

    values: bytes
    revisions: bytes
    scopes: bytes
    events: bytes


class _Partition:
    """The names of one partition's keys that do not depend on a call."""

    __slots__ = ("events", "request", "revisions", "scopes", "tag", "values")

    def __init__(self, tag: bytes, lanes: int) -> None:
        self.tag = tag
        self.values = tag + b"state:"
        self.revisions = tag + b"revision:"
        self.scopes = tag + b"scopes"
        self.events = [tag + b"events:%d" % lane for lane in range(lanes)]
        self.request = tag + b"request:"


class Keyspace:
    """Name the keys of one namespace with one layout, without access to Redis."""

    def __init__(self, namespace: str, layout: Layout) -> None:
        self.namespace: str = check_namespace(namespace)
        self.layout: Layout = layout
        self._partitions = [
            _Partition(f"{{{namespace}:{partition}}}:".encode(), layout.lanes) for partition in range(layout.partitions)
        ]

    def partition(self, name: bytes) -> int:
        """Return the partition of a scope or topic. Those with the same tag share it."""
        return _hash(name) % self.layout.partitions

    def lane(self, key: bytes) -> int:
        """Return the lane of a key inside its scope's partition."""
        return crc_hqx(key, 0) % self.layout.lanes

    def values(self, scope: bytes) -> bytes:
        """Return the hash of a scope's values: key -> JSON text."""
        return self._partitions[self.partition(scope)].values + scope

    def revisions(self, scope: bytes) -> bytes:
        """Return the hash of a scope's revisions: key -> revision."""
        return self._partitions[self.partition(scope)].revisions + scope

    def scopes(self, partition: int) -> bytes:
        """Return the set of the partition's scopes that have a key."""
        return self._partitions[partition].scopes

    def all_scopes(self) -> list[bytes]:
        """Return the sets of all partitions' scopes."""
        return [self.scopes(partition) for partition in range(self.layout.partitions)]

    def events(self, partition: int, lane: int) -> bytes:
        """Return the stream of the change events of one lane."""
        return self._partitions[partition].events[lane]

    def topic(self, topic: bytes, lane: int) -> bytes:
        """Return the stream of the messages of one lane of a topic."""
        return self._partitions[self.partition(topic)].tag + b"topic:%d:" % lane + topic

    def topics(self, partition: int) -> bytes:
        """Return the set of the partition's topics: those to which a message was sent before a step consumed them."""
        return self._partitions[partition].tag + b"topics"

    def due(self, partition: int) -> bytes:
        """Return the sorted set of what falls due in the partition; see fire_due.lua."""
        return self._partitions[partition].tag + b"due"

    def delayed(self, partition: int) -> bytes:
        """Return the hash of the partition's delayed messages; see lib/delayed.lua."""
        return self._partitions[partition].tag + b"delayed"

    def cron(self, step: str) -> bytes:
        """Return the stream of the times of a step's cron triggers. Those of all steps are in one partition."""
        return self._partitions[self.partition(_CRON)].tag + b"cron:" + step.encode()

    def schedules(self, stream: bytes, step: str) -> bytes:
        """Return the hash of a step's schedules, in the stream's partition; see lib/schedules.lua."""
        return _tag(stream) + b"schedules:" + step.encode()

    def rate(self, step: str) -> bytes:
        """Return the bucket of a step's rate; see take_tokens.lua."""
        name = step.encode()
        return self._partitions[self.partition(name)].tag + b"rate:" + name

    def message_partition(self, message_id: object) -> int:
        """Return the partition of the message with this id. Raises InvalidName for what is no id of a message."""
        match = _MESSAGE_ID.fullmatch(message_id) if isinstance(message_id, str) else None
        if match is None or int(match[1]) >= _HASHES:
            raise InvalidName(f"a message id is what enqueue returns, such as '3-0123456789abcdef', not {message_id!r:.80}")
        return int(match[1]) % self.layout.partitions

    def dead(self, stream: bytes, step: str) -> bytes:
        """Return the stream of a step's dead letters, beside the stream they came from (same slot)."""
        return _tag(stream) + b"dead:" + step.encode()

    def entries(self, stream: bytes, step: str) -> bytes:
        """Return the hash of what a step knows of a stream's entries beyond its low-water mark; see lib/lease.lua."""
        tag = _tag(stream)
        return b"%bentries:%b:%b" % (tag, step.encode(), stream[len(tag) :])

    def leases(self, stream: bytes) -> bytes:
        """Return the hash of the leases in the stream's partition."""
        return _tag(stream) + b"leases"

    def trimmed(self, stream: bytes) -> bytes:
        """Return the hash that records the trimmed ids of the partition's streams; see lib/retention.lua."""
        return _tag(stream) + b"trimmed"

    def request(self, stream: bytes, request: bytes) -> bytes:
        """Return the record of a repeated request, in the stream's partition."""
        return _tag(stream) + b"request:" + request

    def idempotency(self, stream: bytes, name: bytes) -> bytes:
        """Return the record of an idempotency key in the stream's partition."""
        return _tag(stream) + b"idempotency:" + name

    def effects(self, stream: bytes, event: bytes) -> bytes:
        """Return the hash with the outcomes of a handler's calls for one event, in the stream's partition."""
        return _tag(stream) + b"effects:" + event

    @property
    def workers(self) -> bytes:
        """The hash of the namespace's workers."""
        return f"{self.namespace}:workers".encode()

    def state_keys(self, scope: bytes, key: bytes) -> StateKeys:
        """Return the keys that a mutation of `(scope, key)` touches. They are all in one slot."""
        return StateKeys(*self.mutation_keys(scope, key, b"")[:4])

    def mutation_keys(self, scope: bytes, key: bytes, request: bytes) -> list[bytes]:
        """Return the keys of `state_keys` and the record of the request, in the order of mutate.lua."""
        partition = self._partitions[self.partition(scope)]
        return [
            partition.values + scope,
            partition.revisions + scope,
            partition.scopes,
            partition.events[self.lane(key)],
            partition.request + request,
        ]

    def transaction_keys(self, partition: int, request: bytes) -> list[bytes]:
        """Return the first keys of transact.lua: they do not depend on what is changed."""
        names = self._partitions[partition]
        return [names.request + request, names.tag + b"trimmed", names.tag + b"due", names.scopes, names.tag + b"topics"]

    def event_streams(self, scope: str | None = None, key: str | None = None) -> list[bytes]:
        """Return the streams with the events of all scopes or one, and of all keys or one."""
        partitions = range(self.layout.partitions) if scope is None else [self.partition(scope.encode())]
        lanes = range(self.layout.lanes) if key is None else [self.lane(key.encode())]
        return [self.events(partition, lane) for partition in partitions for lane in lanes]

    def topic_streams(self, topic: str) -> list[bytes]:
        """Return the streams that hold the messages of a topic."""
        return [self.topic(topic.encode(), lane) for lane in range(self.layout.lanes)]


def tag(name: bytes) -> bytes:
    """Return the tag of a scope or topic, by Redis' rule: what is between the first `{` and the next `}`, if anything, else all.

    What has the same tag lies in one partition in every layout, so one transaction can change it.
    """
    start = name.find(b"{") + 1
    end = name.find(b"}", start)
    return name[start:end] if start and end > start else name


def _hash(name: bytes) -> int:
    """Return the hash of a scope or topic that assigns it to a partition."""
    return crc_hqx(name if b"{" not in name else tag(name), 0)


def _tag(stream: bytes) -> bytes:
    """Return the hash tag that a stream's name begins with."""
    return stream[: stream.index(b"}:") + 2]


def is_cron(stream: bytes) -> bool:
    """Return whether a stream is one of `Keyspace.cron`."""
    return stream.startswith(b"cron:", stream.find(b"}:") + 2)


def place_of(stream: bytes) -> str:
    """Return what a stream of a lane holds, for people."""
    kind, _, name = stream[stream.index(b"}:") + 2 :].partition(b":")
    if kind == b"topic":
        return f"topic {name.partition(b':')[2].decode(errors='replace')}"
    return "cron triggers" if kind == b"cron" else f"changes of partition {partition_of(stream)}"


def partition_of(stream: bytes) -> int:
    """Return the partition of a stream, or of any other key with a partition's hash tag."""
    return int(stream[: stream.index(b"}:")].rpartition(b":")[2])


def message_id(topic: bytes, request: bytes) -> bytes:
    """Return the id of a message: it has the hash of the topic, by which the message is found in every layout."""
    return b"%d-%b" % (_hash(topic), request)


def check_namespace(namespace: str) -> str:
    """Return `namespace` if it can be part of a hash tag. Raises StateError otherwise."""
    if not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace):
        raise StateError(f"namespace {namespace!r} is not valid: use 1 to 64 letters, digits and . _ : - (no braces)")
    return namespace


def encode_revision(revision: object, subject: object, argument: str) -> bytes:
    """Return an expected revision as the scripts take it; None: no value. Raises StateError for text that is not a revision."""
    if revision is None:
        return b"none"
    if isinstance(revision, str) and _REVISION.fullmatch(revision):
        return revision.encode()
    raise StateError(f"{subject}: {argument} must be a revision like '1700000000000-0', or None: {revision!r:.80}")


def layout_key(namespace: str) -> str:
    """Return the hash that records a namespace's layout."""
    return f"{namespace}:layout"


def rejected_key(namespace: str) -> str:
    """Return the record of the last process that was rejected because of its layout or settings; see namespaces.py."""
    return f"{namespace}:rejected"


def copying_key(namespace: str) -> str:
    """Return the key that the process holds which copies into a namespace; see copy_marks.py."""
    return f"{namespace}:copying"


def join(parts: Iterable[bytes]) -> bytes:
    """Return one text for several parts, each with its length: different parts never give the same text, whatever they hold."""
    return b"".join(b"%d:%b" % (len(part), part) for part in parts)


def encode_name(kind: str, name: object, max_bytes: int) -> bytes:
    """Return the UTF-8 bytes of a scope, key or topic.

    Raises InvalidName, which names the `kind`, if the name is not a string, is empty, contains a lone surrogate, is longer than
    `max_bytes` bytes or is reserved.
    """
    if not isinstance(name, str):
        raise InvalidName(f"the {kind} must be a string, not {type(name).__name__}: {name!r:.80}")
    if not name:
        raise InvalidName(f"the {kind} must not be empty")
    try:
        encoded = name.encode()
    except UnicodeEncodeError as error:
        raise InvalidName(f"the {kind} contains a lone surrogate at character {error.start}: {name!r:.80}") from None
    if len(encoded) > max_bytes:
        raise InvalidName(f"the {kind} has {len(encoded)} bytes, the limit is {max_bytes}: {name!r:.80}")
    if encoded.startswith(RESERVED) and not (kind == "scope" and isinstance(name, Reserved)):
        raise InvalidName(f"the {kind} begins with {RESERVED.decode()!r}, which is reserved for the library: {name!r:.80}")
    return encoded
