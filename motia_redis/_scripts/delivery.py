"""The scripts of workers: one typed function per Lua entry point. The header of each Lua file is its contract.

Functions that take a sequence run the script once per item, each atomically, and return the replies in order. Items for one node
run in one round trip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from motia_redis._scripts import loader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from motia_redis._transport.router import Router

_ACKNOWLEDGE: Final = loader.load("acknowledge")
_ACQUIRE_LANES: Final = loader.load("acquire_lanes")
_RELEASE_LANES: Final = loader.load("release_lanes")
_RENEW_LEASES: Final = loader.load("renew_leases")
_HEARTBEAT: Final = loader.load("heartbeat")
_DEAD_LETTER: Final = loader.load("dead_letter")

#: What `acquire_lanes` did with a lane: "held" already, "free" or "dead" = acquired (the last holder's lease had run out),
#: "" = not acquired.
Outcome = Literal["held", "free", "dead", ""]
_OUTCOMES: dict[bytes, Outcome] = {b"held": "held", b"free": "free", b"dead": "dead", b"": ""}


class LaneEntries(NamedTuple):
    """Entries of one lane that are to be acknowledged."""

    stream: bytes
    attempts: bytes  #: key of the hash of the step's recorded attempts
    name: bytes
    group: str
    ids: Sequence[str | bytes]  #: one or more


class Acknowledgement(NamedTuple):
    """One call of `acknowledge`: lanes of one partition."""

    leases: bytes
    worker: str
    lanes: Sequence[LaneEntries]


class PartitionLanes(NamedTuple):
    """Lanes of one partition, to be acquired or released."""

    leases: bytes
    lanes: Sequence[bytes]  #: names


class LiveWorker(NamedTuple):
    """One worker in the reply of `heartbeat`."""

    id: bytes
    description: bytes  #: JSON


async def acknowledge(router: Router, acknowledgements: Sequence[Acknowledgement]) -> list[bool]:
    """Acknowledge entries; return for each call whether the worker holds all its lanes."""
    calls = []
    for leases, worker, lanes in acknowledgements:
        keys: list[bytes] = [leases]
        arguments: list[bytes | str] = [worker]
        for lane in lanes:
            if len(keys) > 1:
                arguments.append(b"")
            keys += (lane.stream, lane.attempts)
            arguments += (lane.name, lane.group, *lane.ids)
        calls.append((keys, arguments))
    return [reply == 1 for reply in await _ACKNOWLEDGE.call_many(router, calls)]


async def acquire_lanes(router: Router, partitions: Sequence[PartitionLanes], *, worker: str) -> list[list[Outcome]]:
    """Acquire the lanes that no live worker holds; return the outcomes of the lanes of each partition."""
    replies = await _ACQUIRE_LANES.call_many(router, [((leases,), (worker, *lanes)) for leases, lanes in partitions])
    return [[_OUTCOMES[outcome] for outcome in reply] for reply in replies]


async def release_lanes(router: Router, partitions: Sequence[PartitionLanes], *, worker: str, leave: bool = False) -> list[int]:
    """Release lanes; return how many of each partition were released. `leave` also ends the worker's leases there."""
    mode = "leave" if leave else "stay"
    return await _RELEASE_LANES.call_many(router, [((leases,), (worker, mode, *lanes)) for leases, lanes in partitions])


async def renew_leases(router: Router, leases: Sequence[bytes], *, worker: str, ttl_ms: int, begin: bool = False) -> list[bool]:
    """Renew the worker's leases in each partition, or begin them; return for each whether they are valid."""
    arguments = (worker, str(ttl_ms), "begin" if begin else "renew")
    return [reply == 1 for reply in await _RENEW_LEASES.call_many(router, [((key,), arguments) for key in leases])]


async def heartbeat(router: Router, *, workers: bytes, worker: str, description: bytes, ttl_ms: int) -> list[LiveWorker]:
    """Record that a worker is alive for `ttl_ms` milliseconds (0: that it leaves); return the live workers."""
    reply = await _HEARTBEAT(router, (workers,), (worker, description, str(ttl_ms)))
    return [LiveWorker(reply[index], reply[index + 1]) for index in range(0, len(reply), 2)]


async def dead_letter(
    router: Router,
    *,
    leases: bytes,
    stream: bytes,
    recorded: bytes,
    dead: bytes,
    worker: str,
    lane: bytes,
    group: str,
    entry_id: str | bytes,
    error_type: str,
    error_text: bytes,
    attempts: int,
) -> bool:
    """Move an entry to the dead letters and acknowledge it; return False, with nothing changed, when the lane is not held.

    `recorded` is the key of the hash of the step's recorded attempts, `dead` that of the stream of its dead letters.
    """
    arguments = (worker, lane, group, entry_id, error_type, error_text, str(attempts))
    moved: int = await _DEAD_LETTER(router, (leases, stream, recorded, dead), arguments)
    return moved == 1
