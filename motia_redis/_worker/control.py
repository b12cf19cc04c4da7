"""Follow which steps are paused, and give the steps of this worker their gates."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from motia_redis._worker.gates import Gate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from motia_redis._worker.dispatcher import KeyQueue
    from motia_redis._worker.rates import Tokens
    from motia_redis._worker.subscriptions import Subscription

_log = logging.getLogger("motia_redis.worker")


class StepControl:
    """Pause the steps of a worker, and limit them as they say.

    Arguments:
        make_ready: what a gate calls: see `Gate`.
        new_tokens: returns the tokens of a step's rate, or None for a step without a rate.
        on_resumed: called with a step whose lanes may be read again.
    """

    def __init__(
        self,
        subscriptions: Sequence[Subscription],
        *,
        make_ready: Callable[[KeyQueue], None],
        new_tokens: Callable[[Subscription], Tokens | None],
        on_resumed: Callable[[Subscription], None],
    ) -> None:
        self._subscriptions = subscriptions
        self._make_ready = make_ready
        self._on_resumed = on_resumed
        self._tokens: list[Tokens] = []
        for subscription in subscriptions:
            concurrency, tokens = subscription.step.concurrency, new_tokens(subscription)
            if tokens is not None:
                self._tokens.append(tokens)
            if concurrency is not None or tokens is not None:
                subscription.gate = Gate(make_ready, concurrency=concurrency, tokens=tokens)

    def follow(self, paused: frozenset[str]) -> None:
        """Pause exactly these steps. Handlers that run go on to their end, and their outcome is recorded."""
        for subscription in self._subscriptions:
            is_paused = subscription.group in paused
            if is_paused == subscription.is_paused:
                continue
            subscription.is_paused = is_paused
            if is_paused:
                _log.info("step %s is paused: its events wait until `motia-redis steps resume`", subscription.group)
                subscription.gate = subscription.gate or Gate(self._make_ready)
                subscription.gate.is_paused = True
            else:
                _log.info("step %s is resumed", subscription.group)
                gate = subscription.gate
                if gate is not None:
                    gate.resume()
                    subscription.gate = gate if gate.is_limited else None
                self._on_resumed(subscription)

    async def aclose(self) -> None:
        """Ask for no more tokens."""
        for tokens in self._tokens:
            await tokens.aclose()
