"""Hold transactions back in a test, directly before they are sent."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from motia_redis._scripts import storage
from tests.support.waiting import until_holds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest


class Gate:
    """Holds back transactions with updates while it is closed; lets others pass, such as those of checks alone.

    A build that applies a transaction in two scripts is also held back between them.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waiting = 0  #: transactions that the gate holds back
        self._open = asyncio.Event()
        self._open.set()
        transact = storage.transact

        async def send(router: Any, keys: Any, options: Any, items: Any, **more: Any) -> storage.Transacted:
            if b"update" in items:
                self.waiting += 1
                try:
                    await self._open.wait()
                finally:
                    self.waiting -= 1
            return await transact(router, keys, options, items, **more)

        monkeypatch.setattr(storage, "transact", send)

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """Close the gate during the block, which begins when a transaction waits."""
        self._open.clear()
        try:
            await until_holds(lambda: self.waiting > 0, "a transaction waits at the gate", deadline=60)
            yield
        finally:
            self._open.set()
