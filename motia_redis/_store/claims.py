"""What lets a call be applied once over processes: the key that its caller gives, or its place in the handler of a step."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from motia_redis._scripts import storage as scripts
from motia_redis._store import effects, keyspace

if TYPE_CHECKING:
    from motia_redis._store.keyspace import Keyspace
    from motia_redis._store.limits import Limits
    from motia_redis._store.retries import Attempt, Retries
    from motia_redis._store.sessions import Session


class IdempotencyClaim:
    """Hold the idempotency claim of a call as the scripts take it. `name` identifies its record; it is empty without a claim."""

    def __init__(self, name: bytes, claim: bytes) -> None:
        self.name = name
        self._claim = claim

    def record(self, names: Keyspace, stream: bytes) -> bytes:
        """Return the record of the claim, beside a stream."""
        return names.idempotency(stream, self.name)

    def confirm(self) -> None:
        """Note that the call was made: this claim does not need to know."""

    def attempt_token(self, attempt: Attempt) -> bytes:
        """Return the attempt token of an attempt. It is empty for a first attempt without an idempotency key."""
        if not self.name and attempt.number == 1:
            return b""
        return b"%d:%d:%d:%s" % (attempt.number, attempt.began, attempt.elapsed, self._claim)


Claim = effects.Effect | IdempotencyClaim
NO_CLAIM = IdempotencyClaim(b"", b"0:")


class Claims:
    """Make the claims of one manager's calls."""

    def __init__(self, retries: Retries, limits: Limits, idempotency_seconds: float) -> None:
        self._retries = retries
        self._limits = limits
        self._lifetime = int(idempotency_seconds * 1000)

    def effect(self, idempotency_key: str | None, method: bytes, *subject: bytes) -> Claim:
        """Return the claim of a call as an effect of the handler that runs here, or none.

        A call with an idempotency key is no such effect. A method that makes several calls asks once, with its own name, and
        passes the claim on.
        """
        running = effects.current()
        if running is None or idempotency_key is not None or running.event.place != self._retries.place:
            return NO_CLAIM
        return running.claim(method, *subject)

    async def read_effect(self, subject: object, claim: Claim, scope: bytes) -> scripts.Mutated | None:
        """Return the outcome that an earlier attempt of the handler had, or None. Cost: a round trip for an effect, else none."""
        if not claim.name:
            return None

        async def attempt(session: Session, _: Attempt) -> bytes | None:
            record = self._record(session, claim, scope)
            reply: bytes | None = await session.router.execute(record, "HGET", record, claim.name)
            return reply

        known = await self._retries.run(subject, attempt, operation="effect")
        if known is None:
            return None
        revision, _, text = known.partition(b"\n")
        return scripts.Mutated(revision or None, text or None, 0)

    async def write_effect(self, subject: object, claim: Claim, scope: bytes) -> None:
        """Record that a call is done which makes several changes, and returns nothing. Cost: as `read_effect`."""
        if not isinstance(claim, effects.Effect):
            return
        lifetime = str(claim.lifetime)

        async def attempt(session: Session, _: Attempt) -> None:
            record = self._record(session, claim, scope)
            commands = ("HSET", record, claim.name, b"\n"), ("PEXPIRE", record, lifetime)
            await session.router.gather([(record, command) for command in commands])

        await self._retries.run(subject, attempt, operation="effect", is_mutation=True)

    @staticmethod
    def _record(session: Session, claim: Claim, scope: bytes) -> bytes:
        names = session.keyspace
        return claim.record(names, names.scopes(names.partition(scope)))

    def by_key(self, idempotency_key: str, place: list[bytes], call: list[bytes], *, ahead: int = 0) -> IdempotencyClaim:
        """Return the claim of a call whose effect comes in `ahead` milliseconds: its record is kept for as much longer."""
        given = keyspace.encode_name("idempotency_key", idempotency_key, self._limits.name_bytes)
        name = blake2b(keyspace.join([*place, given]), digest_size=16).hexdigest().encode()
        fingerprint = blake2b(keyspace.join(call), digest_size=8).hexdigest()
        return IdempotencyClaim(name, b"%d:%s" % (self._lifetime + ahead, fingerprint.encode()))
