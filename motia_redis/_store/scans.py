"""Reading a big hash or set page by page, each page small enough for the server, whatever the sizes of its values.

Redis runs one command at a time, so a page may cost little. How much it costs depends on the bytes of its values, which are known
only behind it. HSCAN goes in the order of the keys' hashes: what has been seen is a random sample of what will come, so its mean
tells how many items make a page. (A hash of few small values Redis gives as a whole: at most 512 items of 64 bytes.)

HSCAN gives whole buckets of the hash. Valkey has up to about 14 items in one, so where values are large, or not known yet, a
script reads as many of them as fit into the page.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError

from motia_redis._scripts import loader

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from motia_redis._scripts.loader import Script
    from motia_redis._store.retries import Attempt, Retries
    from motia_redis._store.sessions import Session
    from motia_redis._transport.router import Router

PAGE_BYTES = 128 * 1024  # what a page aims at: some 0.1 ms of the server's time
PAGE_ITEMS = 500  # what a page holds at most
_FIRST = 1  # item of the first page: it may have the largest size
_FIRST_NAMES = PAGE_BYTES // 4096  # the same for what is no larger than a name
_FEW = 16  # items of a page: below it the page is read by the script, since one bucket may be larger than the page
_GROWTH = 8  # how many times the items of the page before


class PageSize:
    """How many items to ask for next, by what the pages so far held."""

    def __init__(self, first: int = _FIRST) -> None:
        self.count = first  #: items of the next page
        self._items = 0
        self._bytes = 0

    def record_page(self, items: int, size: int) -> None:
        """Take into account a page of so many items and bytes."""
        self._items += items
        self._bytes += size
        fitting = PAGE_BYTES * self._items // max(self._bytes, 1) if self._items else PAGE_ITEMS
        self.count = max(1, min(fitting, self.count * _GROWTH, PAGE_ITEMS))


class Scan:
    """Passes over hashes and sets.

    What is there all the time is in some page, maybe in several: a pass begins anew when another server answers, or one that was
    away, since a cursor means something to one run of one server only. The next page is not read before it is asked for, unless
    it is read `ahead`, while this one is worked on; who leaves such a pass early has to close it.
    """

    def __init__(self, retries: Retries, subject: object) -> None:
        self._retries = retries
        self._where = subject

    def items(self, key: bytes, *, ahead: bool = False) -> AsyncGenerator[Mapping[bytes, bytes]]:
        """Yield the fields and values of a hash."""
        script = loader.load("scan_items")

        async def read(router: Router, address: str, cursor: Any, count: int) -> tuple[Any, Any, int]:
            cursor, left = cursor if isinstance(cursor, tuple) else (cursor, ())
            if count > _FEW and not left:
                cursor, page = await router.execute_at(address, "HSCAN", key, cursor, "COUNT", count)
            else:
                cursor, found, left = await _run_at(router, address, script, key, cursor, count, PAGE_BYTES, *left)
                cursor, page = int(cursor), dict(zip(found[::2], found[1::2], strict=True))
            return (cursor, left) if left else cursor, page, sum(map(len, page)) + sum(map(len, page.values()))

        return self._pages(key, read, PageSize(), ahead=ahead)

    def fields(self, key: bytes) -> AsyncGenerator[list[bytes]]:
        """Yield the fields of a hash; the values stay in Redis."""
        script = loader.load("scan_keys")

        async def read(router: Router, address: str, cursor: Any, count: int) -> tuple[Any, Any, int]:
            following, page, size = await _run_at(router, address, script, key, cursor, count)
            return int(following), page, size

        return self._pages(key, read, PageSize())

    def members(self, key: bytes) -> AsyncGenerator[list[bytes]]:
        """Yield the members of a set, which are names."""

        async def read(router: Router, address: str, cursor: Any, count: int) -> tuple[Any, Any, int]:
            cursor, page = await router.execute_at(address, "SSCAN", key, cursor, "COUNT", count)
            return cursor, page, sum(map(len, page))

        return self._pages(key, read, PageSize(_FIRST_NAMES))

    async def _pages(self, key: bytes, read: Any, size: PageSize, *, ahead: bool = False) -> AsyncGenerator[Any]:
        cursor, last = 0, ""
        following: asyncio.Task[Any] | None = None

        async def attempt(session: Session, attempt: Attempt) -> Any:
            nonlocal last
            address = await session.router.address_of(key)
            start = cursor if address == last and attempt.number == 1 else 0
            last = address
            return await read(session.router, address, start, size.count)

        try:
            while True:
                cursor, page, weight = await (following or self._retries.run(self._where, attempt))
                size.record_page(len(page), weight)
                if ahead and cursor:
                    following = asyncio.create_task(self._retries.run(self._where, attempt))
                    await asyncio.sleep(0)  # it is sent before this page is worked on
                if page:
                    yield page
                if not cursor:
                    return
        finally:
            if following is not None:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)


async def _run_at(router: Router, address: str, script: Script, key: bytes, *arguments: Any) -> Any:
    """Run a script that changes nothing at one server, and return its reply."""
    try:
        return await router.execute_at(address, "EVALSHA", script.sha, 1, key, *arguments)
    except NoScriptError:
        return await router.execute_at(address, "EVAL", script.source, 1, key, *arguments)
