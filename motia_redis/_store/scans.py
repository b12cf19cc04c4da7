"""Read a large hash or set in pages. Each page is small enough for the server, whatever the sizes of the values.

Redis runs one command at a time, so each page must be cheap. The cost depends on the bytes of its values, which are known only
after the read. HSCAN iterates in the order of the keys' hashes, so the pages read so far are a random sample. Their mean size
determines the number of items of the next page. (Redis returns a small hash as a whole: at most 512 items of 64 bytes.)

HSCAN returns whole buckets of the hash. Valkey has up to about 14 items in one bucket. So where values are large, or their size
is not known yet, a script reads as many of them as fit into the page.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from motia_redis._scripts import storage as scripts

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from motia_redis._store.retries import Attempt, Retries
    from motia_redis._store.sessions import Session
    from motia_redis._transport.router import Node, Router

PAGE_BYTES = 128 * 1024  # target size of a page: about 0.1 ms of the server's time
PAGE_ITEMS = 500  # largest number of items of a page
_FIRST = 1  # items of the first page: one value may have the largest size
_FIRST_NAMES = PAGE_BYTES // 4096  # the same for names, which are at most 4096 bytes by default
_FEW = 16  # pages of at most this many items are read by the script, because one bucket may be larger than such a page
_GROWTH = 8  # largest factor from the items of one page to those of the next
_GLOB = re.compile(rb"[*?[\]\\^-]")  # what means something in a pattern of Redis


class _Position(NamedTuple):
    """Where a page of values begins: first the keys that the previous page left over, then at the cursor."""

    cursor: int
    left: Sequence[bytes]


class PageSize:
    """Calculate the number of items of the next page from the sizes of the previous pages."""

    def __init__(self, first: int = _FIRST) -> None:
        self.count = first  #: items of the next page
        self._items = 0
        self._bytes = 0

    def record_page(self, items: int, size: int) -> None:
        """Record a page of `items` items and `size` bytes."""
        self._items += items
        self._bytes += size
        fitting = PAGE_BYTES * self._items // max(self._bytes, 1) if self._items else PAGE_ITEMS
        self.count = max(1, min(fitting, self.count * _GROWTH, PAGE_ITEMS))


class Scan:
    """Scan hashes and sets.

    An item that exists during the whole scan is in at least one page, and may be in several. A cursor is valid only for one run
    of one server. A scan therefore starts again if another server answers, or after a failed attempt. A page is read when it is
    requested. With `ahead` it is read while the previous page is processed. A caller must close such a scan to stop early.
    """

    def __init__(self, retries: Retries, subject: object) -> None:
        self._retries = retries
        self._subject = subject

    def items(self, key: bytes, *, ahead: bool = False) -> AsyncGenerator[Mapping[bytes, bytes]]:
        """Yield the fields and values of a hash."""

        async def read(router: Router, node: Node, cursor: Any, count: int) -> tuple[Any, Any, int]:
            cursor, left = cursor if isinstance(cursor, _Position) else _Position(cursor, ())
            if count > _FEW and not left:
                cursor, page = await router.execute_at(node, "HSCAN", key, cursor, "COUNT", count)
            else:
                cursor, page, left = await scripts.scan_items(
                    router, node, values=key, cursor=cursor, count=count, max_bytes=PAGE_BYTES, left=left
                )
            size = sum(map(len, page)) + sum(map(len, page.values()))
            return _Position(cursor, left) if left else cursor, page, size

        return self._pages(key, read, PageSize(), ahead=ahead)

    def entries(self, values: bytes, revisions: bytes) -> AsyncGenerator[list[tuple[bytes, bytes, bytes]]]:
        """Yield the keys, texts and revisions of a scope. The next page is read while one is processed."""

        async def read(router: Router, node: Node, cursor: Any, count: int) -> tuple[Any, Any, int]:
            cursor, left = cursor if isinstance(cursor, _Position) else _Position(cursor, ())
            cursor, page, left = await scripts.scan_entries(
                router, node, values=values, revisions=revisions, cursor=cursor, count=count, max_bytes=PAGE_BYTES, left=left
            )
            return _Position(cursor, left) if left else cursor, page, sum(len(key) + len(text) for key, text, _ in page)

        return self._pages(values, read, PageSize(), ahead=True)

    def fields(self, key: bytes) -> AsyncGenerator[list[bytes]]:
        """Yield the fields of a hash; the values stay in Redis."""

        async def read(router: Router, node: Node, cursor: Any, count: int) -> tuple[Any, Any, int]:
            return await scripts.scan_keys(router, node, values=key, cursor=cursor, count=count)

        return self._pages(key, read, PageSize())

    def members(self, key: bytes, prefix: bytes = b"") -> AsyncGenerator[list[bytes]]:
        """Yield the members of a set, which are names; with a prefix, those that begin with it."""
        match = ("MATCH", _GLOB.sub(rb"\\\g<0>", prefix) + b"*") if prefix else ()

        async def read(router: Router, node: Node, cursor: Any, count: int) -> tuple[Any, Any, int]:
            cursor, page = await router.execute_at(node, "SSCAN", key, cursor, *match, "COUNT", count)
            return cursor, page, sum(map(len, page))

        return self._pages(key, read, PageSize(_FIRST_NAMES))

    async def chosen(self, key: bytes, fields: Sequence[bytes]) -> AsyncGenerator[Mapping[bytes, bytes]]:
        """Yield the given fields of a hash and their values, in their order; those that the hash does not have are left out.

        The caller determines the order, so the pages read so far are no sample of the next one. The script bounds every page.
        """
        size = PageSize(PAGE_ITEMS)
        wanted: Sequence[bytes] = ()

        async def read(session: Session, _: Attempt) -> scripts.ItemsPage:
            return await scripts.scan_items(session.router, None, values=key, max_bytes=PAGE_BYTES, left=wanted)

        begin = 0
        while begin < len(fields):
            wanted = fields[begin : begin + size.count]
            _, page, left = await self._retries.run(self._subject, read, operation="scan")
            done = len(wanted) - len(left)
            size.record_page(done, sum(map(len, wanted[:done])) + sum(map(len, page.values())))
            begin += done
            yield page

    async def _pages(self, key: bytes, read: Any, size: PageSize, *, ahead: bool = False) -> AsyncGenerator[Any]:
        cursor = 0
        last: Node | None = None
        following: asyncio.Task[Any] | None = None

        async def attempt(session: Session, attempt: Attempt) -> Any:
            nonlocal last
            node = await session.router.node_of(key)
            start = cursor if node is last and attempt.number == 1 else 0
            last = node
            return await read(session.router, node, start, size.count)

        try:
            while True:
                cursor, page, weight = await (following or self._retries.run(self._subject, attempt, operation="scan"))
                size.record_page(len(page), weight)
                if ahead and cursor:
                    following = asyncio.create_task(self._retries.run(self._subject, attempt, operation="scan"))
                    await asyncio.sleep(0)  # lets the request go out before this page is processed
                if page:
                    yield page
                if not cursor:
                    return
        finally:
            if following is not None:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
