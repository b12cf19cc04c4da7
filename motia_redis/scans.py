"""Reading a big hash or set page by page, so that no call holds up Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from motia_redis.retries import Attempt, Retries
    from motia_redis.sessions import Session


class Scan:
    """One pass over a hash (HSCAN) or set (SSCAN).

    What is there all the time is in some page, maybe in several: the pass begins anew when another server answers, or one that
    was away, since a cursor means something to one run of one server only.
    """

    def __init__(self, retries: Retries, where: str, command: str, key: bytes) -> None:
        self._retries = retries
        self._where = where
        self._command = command
        self._key = key
        self._address = ""

    async def page(self, cursor: Any, count: int) -> tuple[Any, Any]:
        """Return the cursor of the next page (0 behind the last) and about `count` items, as redis-py gives them."""

        async def read(session: Session, attempt: Attempt) -> Any:
            address = await session.nodes.address(self._key)
            start = cursor if address == self._address and attempt.number == 1 else 0
            self._address = address
            return await session.nodes.run_here(address, self._command, self._key, start, "COUNT", count)

        return await self._retries.run(self._where, read)
