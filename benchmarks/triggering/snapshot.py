"""A snapshot of what a writer has written. Restoring it is faster than writing the events again for each round."""

from __future__ import annotations

from typing import Any

_PAGE = 500


class Snapshot:
    """All keys of a server, with their expiry."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._keys: list[tuple[bytes, int, bytes]] = []
        names = list(client.scan_iter(count=_PAGE))
        for at in range(0, len(names), _PAGE):
            page = names[at : at + _PAGE]
            pipeline = client.pipeline(transaction=False)
            for name in page:
                pipeline.pttl(name).dump(name)
            replies = pipeline.execute()
            self._keys += [(name, max(0, replies[2 * i]), replies[2 * i + 1]) for i, name in enumerate(page)]

    def restore(self) -> None:
        """Flush the server and restore all keys."""
        self._client.flushall()
        for at in range(0, len(self._keys), _PAGE):
            pipeline = self._client.pipeline(transaction=False)
            for name, expiry, content in self._keys[at : at + _PAGE]:
                pipeline.restore(name, expiry, content)
            pipeline.execute()
