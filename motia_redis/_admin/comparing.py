"""Compare what two namespaces hold: counts and checksums, which do not depend on the order, and the names of what differs."""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from motia_redis._store.moving import Mover

if TYPE_CHECKING:
    from collections.abc import Callable

    from motia_redis._store.manager import StateManager

MOST_NAMED = 20  #: differences of one kind that are named; the others are counted
_BUCKETS = 4096  # of scopes, each with its sum: those of a scope of their own would take memory for each scope
_BITS = 64
_AGAIN = 0.5  # seconds after which what differs is read again: it may have changed between two reads


class Tally:
    """Count things by their labels, and add their digests: the same things give the same sums, in whatever order."""

    __slots__ = ("counts", "sums")

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.sums: Counter[str] = Counter()

    def add(self, label: str, thing: bytes) -> None:
        """Count a thing."""
        self.counts[label] += 1
        self.sums[label] += int.from_bytes(blake2b(thing, digest_size=_BITS // 8).digest())

    @property
    def count(self) -> int:
        """Return the number of things."""
        return self.counts.total()

    @property
    def checksum(self) -> str:
        """Return the sum of all digests, in 16 hexadecimal digits."""
        return f"{self.sums.total() % 2**_BITS:016x}"

    def differing(self, other: Tally) -> list[str]:
        """Return the labels whose counts or sums differ, sorted."""
        labels = self.counts.keys() | other.counts.keys()
        return sorted(
            label for label in labels if (self.counts[label], self.sums[label]) != (other.counts[label], other.sums[label])
        )


@dataclass(frozen=True, slots=True)
class Compared:
    """Hold how much of one kind the source and the target of a copy have."""

    kind: str  #: values, messages, delayed messages, schedules or dead letters
    source: int
    target: int
    source_checksum: str
    target_checksum: str
    differences: list[str]  #: what differs, by name

    @classmethod
    def of(cls, kind: str, source: Tally, target: Tally, differences: list[str]) -> Compared:
        """Return the comparison of two tallies."""
        return cls(kind, source.count, target.count, source.checksum, target.checksum, differences)


async def compare_values(
    source: StateManager, target: StateManager, *, compared: Callable[[int, int], object] | None = None
) -> Compared:
    """Compare all stored texts. `compared` takes how many of both sides were read, and about how many there are.

    Cost: about a millisecond of each server's time for each thousand small values; constant memory. What has changed while it was
    compared may be named.
    """
    here, there = Mover(source, "copy"), Mover(target, "copy")
    total = 0 if compared is None else await here.count(None) + await there.count(None)
    done = 0

    async def tally(mover: Mover) -> Tally:
        nonlocal done
        found = Tally()
        async with aclosing(mover.pages(None)) as pages:
            async for scope, page in pages:
                label = _bucket(scope)
                for key, text in page.items():
                    found.add(label, b"%d:%d:%b%b%b" % (len(scope), len(key), scope, key, text))
                done += len(page)
                if compared is not None:
                    compared(done, max(total, done))
        return found

    ours, theirs = await asyncio.gather(tally(here), tally(there))
    differing = set(ours.differing(theirs))
    differences = await _name_values(here, there, differing) if differing else []
    # A scan of a hash that grows may yield a value twice. Then the sums differ, and no value does.
    return Compared.of("values", ours, theirs if differences or not differing else ours, differences)


def _bucket(scope: bytes) -> str:
    return str(zlib.crc32(scope) % _BUCKETS)


async def _name_values(source: Mover, target: Mover, buckets: set[str]) -> list[str]:
    """Return the names of the values that differ in some buckets of scopes, and how."""
    named: list[tuple[bytes, bytes]] = []
    others = 0
    for one, other, only_missing in ((source, target, False), (target, source, True)):
        async for names in one.scopes():
            chosen = [scope for scope in names if _bucket(scope) in buckets]
            async with aclosing(one.pages(chosen)) as pages:
                async for scope, page in pages:
                    async with aclosing(other.read([(scope, key) for key in page])) as found:
                        async for part in found:
                            differing = [
                                (scope, key)
                                for scope, key, text in part
                                if text is None or (not only_missing and text != page[key])
                            ]
                            named += differing[: MOST_NAMED - len(named)]
                            others += len(differing)
    if not named:
        return []
    await asyncio.sleep(_AGAIN)
    ours, theirs = await _read(source, named), await _read(target, named)
    still = [name for name in dict.fromkeys(named) if ours.get(name) != theirs.get(name)]
    texts = [_describe(*name, ours.get(name), theirs.get(name)) for name in still]
    if others > len(named):
        texts.append(f"and {others - len(named):,} other values")
    return texts


async def _read(mover: Mover, names: list[tuple[bytes, bytes]]) -> dict[tuple[bytes, bytes], bytes | None]:
    async with aclosing(mover.read(dict.fromkeys(names))) as pages:
        return {(scope, key): text async for page in pages for scope, key, text in page}


def _describe(scope: bytes, key: bytes, here: bytes | None, there: bytes | None) -> str:
    subject = f"scope {scope.decode(errors='replace')!r:.200} key {key.decode(errors='replace')!r:.200}"
    if there is None:
        return f"{subject}: only at the source"
    return f"{subject}: only at the target" if here is None else f"{subject}: another value at the target"


def compare_tallies(kind: str, source: Tally, target: Tally) -> Compared:
    """Compare two tallies, and name the labels that differ."""
    texts = []
    for label in source.differing(target):
        ours, theirs = source.counts[label], target.counts[label]
        how = f"{ours:,} at the source, {theirs:,} at the target" if ours != theirs else "the contents differ"
        texts.append(f"{label}: {how}")
    if len(texts) > MOST_NAMED:
        texts[MOST_NAMED:] = [f"and {len(texts) - MOST_NAMED:,} others"]
    return Compared.of(kind, source, target, texts)
