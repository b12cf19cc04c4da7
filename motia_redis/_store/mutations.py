"""Send mutations and messages. Each is applied once, however often it is sent, and is as durable as required."""

from __future__ import annotations

import logging
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from motia_redis import _metrics
from motia_redis._ids import generator, random_id
from motia_redis._scripts import error_codes, timing
from motia_redis._scripts import storage as scripts
from motia_redis._store import keyspace
from motia_redis._store.claims import Claims
from motia_redis._store.lane_turns import LaneTurns
from motia_redis._store.sweeping import due_keys
from motia_redis._tracing import current_trace
from motia_redis._transport.failures import ErrorReply
from motia_redis.errors import RevisionConflict, StateError, StateUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from motia_redis._store.claims import Claim
    from motia_redis._store.durability import Durability
    from motia_redis._store.limits import Limits
    from motia_redis._store.retries import Attempt, Retries
    from motia_redis._store.sessions import Session
    from motia_redis._store.times import DueTime
    from motia_redis._store.transaction_items import Item

_log = logging.getLogger("motia_redis.state")

# Seconds after a deletion found the server full in which deletions trim as if it still were. Otherwise memory would stay just
# below the limit: a deletion frees the value, and its event takes as much.
_FULL_SECONDS = 10.0
_TRIM_INTERVAL = 0.1  # seconds: with few writes, one trim in 64 writes would come too late
_RECORD_MARGIN = 10.0  # seconds for which a transaction is remembered after the last attempt at it may have started
_DELETIONS = (b"delete", b"drop")
_ALWAYS_NEW = (b"set", *_DELETIONS)  # kinds whose revision is new; an update or `expire` that changes nothing returns the old one
#: The names of kinds in metrics and spans.
_OPERATIONS = {b"set": "set", b"delete": "delete", b"update": "update", b"strict update": "update", b"expire": "expire"}
ANY: Final[Any] = object()  #: the default of `if_revision`: any revision


class Mutations:
    """Send the mutations and messages of one manager. All attempts at one call carry the same request id."""

    def __init__(self, retries: Retries, limits: Limits, durability: Durability, idempotency_seconds: float) -> None:
        self.claims: Claims = Claims(retries, limits, idempotency_seconds)
        self._retries = retries
        self._durability = durability
        self._wait_commands = durability.wait_commands
        self._lane_turns = LaneTurns()
        self._next_trim = 0.0
        self._full_until = 0.0

    async def apply(
        self,
        subject: object,
        scope: bytes,
        key: bytes,
        change: list[bytes],
        *,
        ttl: bytes = b"",
        if_revision: str | None = ANY,
        idempotency_key: str | None = None,
        operations: object = None,
        effect: Claim | None = None,
    ) -> scripts.Mutated:
        """Apply one mutation of one key once and return the reply of the script. Error messages show `operations`.

        `ttl` is the time to live as the script takes it. `effect` is that of a call of another name, see `Claims.effect`.
        """
        request = _request_id()
        expected = b"" if if_revision is ANY else keyspace.encode_revision(if_revision, subject, "if_revision")
        claim = effect or self.claims.effect(idempotency_key, change[0], scope, key)
        if idempotency_key is not None:
            claim = self.claims.by_key(idempotency_key, [b"state", scope, key], [expected, ttl, *change])

        async def attempt(session: Session, attempt: Attempt) -> scripts.Mutated:
            attempt_token = claim.attempt_token(attempt)
            mutation = self._mutation(
                session,
                scope,
                key,
                change,
                request=request,
                expected=expected,
                attempt_token=attempt_token,
                claim=claim,
                ttl=ttl,
            )
            try:
                reply = await scripts.mutate(session.router, mutation, following=self._wait_commands)
            except ErrorReply as error:
                await self._after_refusal(session, error, mutation.keys[3], session.settings.trimming)
                raise
            if reply.following or reply.dropped or reply.found_full:
                self._check(subject, reply)
            if reply.revision and not attempt_token and change[0] in _ALWAYS_NEW:
                session.clock.update(reply.revision)
            return reply

        try:
            reply = await self._retries.run(subject, attempt, operation=_OPERATIONS[change[0]], is_mutation=True, changes=1)
        except ErrorReply as error:
            known = _to_error(subject, error, operations)
            if isinstance(known, RevisionConflict):
                known.expected = if_revision
            raise known from None
        claim.confirm()
        if reply.created_scope:
            await self._check_layout(subject)
        return reply

    async def transact(self, items: Sequence[Item], most_bytes: int, idempotency_key: str | None) -> scripts.Transacted:
        """Apply the items of a transaction once, all or none, and return the reply of the script. There is at least one."""
        turns = [item.is_keyless and self._lane_turns.take(item.scope_bytes) for item in items]
        subject = keyspace.Sending("transaction", [item.scope for item in items if item.kind != b"check"])
        request, tag = _request_id(), keyspace.tag(items[0].scope_bytes)
        # Other attempts of a handler may change other values of these keys, but it is the same call.
        places = keyspace.join(part for item in items for part in (item.kind, item.scope_bytes, item.key_bytes))
        claim = self.claims.effect(idempotency_key, b"transaction", tag, places)
        if idempotency_key is not None:
            call = [part for item in items for part in item.fingerprint()]
            claim = self.claims.by_key(idempotency_key, [b"transaction", tag], call)

        async def attempt(session: Session, attempt: Attempt) -> scripts.Transacted:
            names, trims = session.keyspace, self._trims_now()
            keys = names.transaction_keys(names.partition(items[0].scope_bytes), request)
            keys.append(claim.record(names, keys[0]) if claim.name else keys[0])
            numbers: dict[bytes, int] = {}
            arguments = [part for item, turn in zip(items, turns, strict=True) for part in item.encode(names, numbers, turn)]
            options = scripts.TransactOptions(
                trace=_trace(),
                most_bytes=most_bytes,
                attempt_token=claim.attempt_token(attempt),
                record_milliseconds=int((session.settings.deadline + _RECORD_MARGIN) * 1000),
                event_limits=session.settings.trimming if trims else b"",
                topic_limits=session.settings.topic_trimming(names.layout.lanes) if trims else b"",
            )
            reply = await scripts.transact(session.router, (*keys, *numbers), options, arguments, following=self._wait_commands)
            self._check(subject, reply.mutated)
            return reply

        try:
            reply = await self._retries.run(
                subject, attempt, operation="transaction", is_mutation=True, changes=_count_changes(items)
            )
        except ErrorReply as error:
            known = _to_error(subject, error, items)
            raise known from known.__cause__
        claim.confirm()
        if reply.mutated.created_scope:
            await self._check_layout(subject)
        return reply

    async def append(
        self, subject: object, topic: bytes, key: bytes, data: bytes, *, due: DueTime | None, idempotency_key: str | None
    ) -> str:
        """Append one message to a topic once, or keep it until it is due, and return its id."""
        request = _request_id()
        claim = self.claims.effect(idempotency_key, b"enqueue", topic)
        if idempotency_key is not None:
            call, ahead = ([key, data], 0) if due is None else ([key, data, due.given], due.ahead())
            claim = self.claims.by_key(idempotency_key, [b"topic", topic], call, ahead=ahead)
        # All attempts send to one lane, where an earlier one is found: also those of other processes that make the same call.
        place = key or claim.name
        turn = 0 if place else self._lane_turns.take(topic)

        async def attempt(session: Session, attempt: Attempt) -> scripts.Enqueued:
            names = session.keyspace
            partition = names.partition(topic)
            stream = names.topic(topic, names.lane(place) if place else turn % names.layout.lanes)
            message_id = keyspace.message_id(topic, request)
            attempt_token = claim.attempt_token(attempt)
            request_record = names.request(stream, message_id)
            idempotency_record = claim.record(names, stream) if claim.name else None
            try:
                if due is None:
                    message = scripts.Message(
                        stream=stream,
                        trimmed=names.trimmed(stream),
                        topics=names.topics(partition),
                        request_record=request_record,
                        idempotency_record=idempotency_record,
                        topic=topic,
                        key=key,
                        data=data,
                        request=message_id,
                        trace=_trace(),
                        limits=session.settings.topic_trimming(names.layout.lanes) if self._trims_now() else b"",
                        attempt_token=attempt_token,
                    )
                    reply = await scripts.enqueue(session.router, message, following=self._wait_commands)
                else:
                    delayed = timing.DelayedMessage(
                        stream=stream,
                        keys=due_keys(names, partition),
                        request_record=request_record,
                        idempotency_record=idempotency_record,
                        key=key,
                        data=data,
                        request=message_id,
                        trace=_trace(),
                        time=due.encode(attempt.elapsed),
                        most=session.settings.retention.most_entries,
                        attempt_token=attempt_token,
                    )
                    reply = await timing.delay_message(session.router, delayed, following=self._wait_commands)
            except ErrorReply as error:
                await self._after_refusal(session, error, stream, session.settings.topic_trimming(names.layout.lanes))
                raise
            self._check(subject, reply)
            return reply

        try:
            reply = await self._retries.run(subject, attempt, operation="enqueue", is_mutation=True)
        except ErrorReply as error:
            raise _to_error(subject, error) from None
        claim.confirm()
        if reply.created_stream:
            await self._check_layout(subject)
        return reply.request.decode()

    async def cancel(self, message_id: str) -> bool:
        """Remove a message that waits for its time, and return whether it waited. Raises InvalidName."""
        subject, request = f"message {message_id!r:.80}", _request_id()
        claim = self.claims.effect(None, b"cancel", str(message_id).encode(errors="replace"))

        async def attempt(session: Session, attempt: Attempt) -> bool:
            names = session.keyspace
            keys = due_keys(names, names.message_partition(message_id))
            record = names.request(keys.due, message_id.encode())
            removed, replies = await timing.cancel_message(
                session.router,
                keys,
                request_record=record,
                message=message_id.encode(),
                request=request,
                effects=claim.record(names, keys.due) if claim.name else None,
                attempt_token=claim.attempt_token(attempt),
                following=self._wait_commands,
            )
            if removed and replies:
                self._durability.check(subject, replies[0])
            return removed

        return await self._retries.run(subject, attempt, operation="cancel", is_mutation=True)

    async def delete(self, subject: object, scope: bytes, keys: Sequence[bytes]) -> None:
        """Delete those of `keys` that have a value, each with its event. Cost: one round trip, and one more for durability."""
        change, subject = [b"drop"], keyspace.Sending(str(subject), [scope] * len(keys))

        async def attempt(session: Session, _: Attempt) -> None:
            # Only the last call trims its stream: several trims in a row would block Redis for too long.
            calls = [self._mutation(session, scope, key, change, limits=b"") for key in keys[:-1]]
            calls.append(self._mutation(session, scope, keys[-1], change, limits=session.settings.trimming))
            for reply in await scripts.mutate_many(session.router, calls):
                self._check(subject, reply)
            if self._wait_commands:
                # WAIT covers the last write of its own connection, so this connection writes once, after all deletions.
                stream = calls[0].keys[3]
                mark, trimmed = session.keyspace.request(stream, _request_id()), session.keyspace.trimmed(stream)
                (durable,) = await scripts.mark_write(session.router, trimmed=trimmed, mark=mark, following=self._wait_commands)
                self._durability.check(subject, durable)

        await self._retries.run(subject, attempt, operation="delete", is_mutation=True, changes=len(keys))

    def _mutation(
        self,
        session: Session,
        scope: bytes,
        key: bytes,
        change: list[bytes],
        *,
        request: bytes = b"",
        expected: bytes = b"",
        attempt_token: bytes = b"",
        limits: bytes | None = None,
        claim: Claim | None = None,
        ttl: bytes = b"",
    ) -> scripts.Mutation:
        """Build the call of the mutation script for one key."""
        request = request or _request_id()
        keys = session.keyspace.mutation_keys(scope, key, request)
        is_deletion = change[0] in _DELETIONS
        if is_deletion and self._full_until and monotonic() < self._full_until:
            limits = b"needed"
        elif limits is None:
            limits = session.settings.trimming if self._trims_now() else b""
        options = scripts.options(_trace(), expected, limits, attempt_token, ttl)
        is_repeated = attempt_token and not attempt_token.startswith(b"@")  # or has an idempotency key; else it is a new effect
        if is_deletion or expected or limits or is_repeated or ttl:  # a deletion trims on a full server
            keys += session.keyspace.trimmed(keys[3]), session.keyspace.due(keyspace.partition_of(keys[3]))
        if claim is not None and claim.name:
            keys.append(claim.record(session.keyspace, keys[3]))
        return scripts.Mutation(keys, key, change, options)

    async def _check_layout(self, subject: object) -> None:
        """Look at the layout again after a change that created a scope or a stream: after a loss of data all of them are new."""
        try:
            await self._retries.check_layout(subject)
        except StateUnavailable as error:
            error.maybe_applied = True  # the change was applied
            raise

    async def _after_refusal(self, session: Session, error: ErrorReply, stream: bytes, limits: bytes) -> None:
        """Trim the stream if a full Redis refused a write to it. Otherwise old entries would keep it full: only writes trim."""
        if error.code == "OOM":
            with suppress(RedisError, OSError):  # the caller gets the refusal
                trimmed = session.keyspace.trimmed(stream)
                await scripts.trim_stream(session.router, stream=stream, trimmed=trimmed, limits=limits)

    def _trims_now(self) -> bool:
        """Return whether this write also trims its stream.

        About one in 64 writes trims, and the first write after a pause, so that a few writes also clear what many have left.
        """
        now = monotonic()
        if now < self._next_trim and generator.getrandbits(6):
            return False
        self._next_trim = now + _TRIM_INTERVAL
        return True

    def _check(self, subject: object, reply: scripts.Mutated | scripts.Enqueued) -> None:
        """Check that a change is as durable as required, and report the entries that it made Redis drop."""
        if isinstance(reply, scripts.Mutated) and reply.found_full:
            self._full_until = monotonic() + _FULL_SECONDS
        if reply.following:
            self._durability.check(subject, reply.following[0])
        if reply.dropped:
            _log.error(
                "%s: the stream is over the hard cap: %d entries were dropped that no step had handled", subject, reply.dropped
            )


def _to_error(subject: object, error: ErrorReply, operations: object = None) -> StateError:
    known = error_codes.to_error(subject, error, operations)
    assert known is not None, "Retries raises only script errors as ResponseError"  # noqa: S101  # for the type checker
    if _metrics.active is not None and (isinstance(known, RevisionConflict) or isinstance(known.__cause__, RevisionConflict)):
        _metrics.active.conflicts += 1
    return known


def _count_changes(items: Sequence[Item]) -> int:
    return sum(item.kind not in {b"message", b"check"} for item in items)


def _request_id() -> bytes:
    return random_id(16).encode()


def _trace() -> bytes:
    """Return the current trace. One of several lines comes from an event that another client wrote, and is none."""
    trace = current_trace()
    return trace.encode() if trace and "\n" not in trace else b""
