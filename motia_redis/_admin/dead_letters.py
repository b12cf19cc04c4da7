"""List, retry and drop dead letters: what `motia_redis.admin` offers of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from motia_redis._admin import letter_moves
from motia_redis._admin.connections import open_namespace
from motia_redis._admin.letters import DeadLetter, all_pages, filled, letter_of, merged, missing, place_of

if TYPE_CHECKING:
    import builtins

    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.manager import StateManager
    from motia_redis._transport.router import Router


class DeadLetters:
    """Read, retry and drop the dead letters of a namespace.

    A step's letters are in one stream for each partition. No call scans the keyspace. Every call opens separate connections, and
    may raise StateUnavailable.
    """

    def __init__(self, state: StateManager) -> None:
        self._state = state

    # -- reading ------------------------------------------------------------------------------------------------------

    async def count(self, step: str | None = None) -> int:
        """Return the number of letters of a step, or of all steps. Cost: two round trips; steps times partitions."""
        async with open_namespace(self._state, "dead letters") as (router, keyspace):
            return sum((await filled(router, keyspace, step)).values())

    async def list(self, step: str | None = None, *, limit: int = 100) -> list[DeadLetter]:
        """Return the oldest letters of a step, or of all steps, ordered by time.

        Cost: a few round trips, page by page; the bytes of the letters.
        """
        async with open_namespace(self._state, "dead letters") as (router, keyspace):
            found: builtins.list[DeadLetter] = []
            async for letter in merged(router, [*await filled(router, keyspace, step)]):
                if len(found) >= limit:
                    break
                found.append(letter)
            return found

    async def get(self, step: str, id: str) -> DeadLetter:
        """Return one letter. Raises DeadLetterMissing."""
        async with open_namespace(self._state, f"dead letter {id}") as (router, keyspace):
            return await self._get(router, keyspace, step, id)

    # -- retrying ---------------------------------------------------------------------------------------------------

    async def retry(self, step: str, id: str) -> None:
        """Append the letter's event to its lane again, for this step only, with all its attempts, and remove the letter.

        The call is atomic. The event does not keep its place in the order of its key: it runs after the newer events of that key
        that were written before this call, and never at the same time as one of them. The handler gets the old `new_value` and
        the original `revision`. The step's present conditions are checked again; if they do not want the event, it becomes a dead
        letter again. After StateUnavailable the event may have been appended; then the letter is gone.

        Raises DeadLetterMissing (also if the event was trimmed) and StepMissing (the step was forgotten, or the triggers of its
        running versions do not cover the event). The letter stays then.
        """
        async with open_namespace(self._state, f"dead letter {id}") as (router, keyspace):
            letter = await self._get(router, keyspace, step, id)
            (reason,) = await letter_moves.retry(router, keyspace, [letter])
        if reason is not None:
            raise letter_moves.refusal(letter, reason)

    async def retry_all(self, step: str | None = None) -> tuple[int, builtins.list[str]]:
        """Retry all letters that exist now, as `retry` does. Return their number, and the errors of the others."""
        retried, left = 0, []
        async with open_namespace(self._state, "dead letters") as (router, keyspace):
            async for _, page in all_pages(router, keyspace, step):
                reasons = await letter_moves.retry(router, keyspace, page)
                retried += reasons.count(None)
                left += [str(letter_moves.refusal(letter, why)) for letter, why in zip(page, reasons, strict=True) if why]
        return retried, left

    # -- dropping -----------------------------------------------------------------------------------------------------

    async def drop(self, step: str, id: str) -> None:
        """Delete a letter. Raises DeadLetterMissing."""
        async with open_namespace(self._state, f"dead letter {id}") as (router, keyspace):
            letter = await self._get(router, keyspace, step, id)
            if not await letter_moves.drop(router, keyspace, place_of(keyspace, step, id)[0], [letter]):
                raise missing(step, id)

    async def drop_all(self, step: str | None = None) -> int:
        """Delete all letters that exist now, of a step or of all steps. Return their number."""
        dropped = 0
        async with open_namespace(self._state, "dead letters") as (router, keyspace):
            async for place, page in all_pages(router, keyspace, step):
                dropped += await letter_moves.drop(router, keyspace, place, page)
        return dropped

    @staticmethod
    async def _get(router: Router, keyspace: Keyspace, step: str, id: str) -> DeadLetter:
        place, entry_id = place_of(keyspace, step, id)
        reply: Any = await router.execute(place.stream, "XRANGE", place.stream, entry_id, entry_id)
        if not reply:
            raise missing(step, id)
        return letter_of(place, *reply[0])
