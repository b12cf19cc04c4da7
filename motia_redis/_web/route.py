"""One route: its condition, its middleware, the schema of its bodies and its handler, in this order."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from motia_redis._steps.invocation import Apart, call, call_here, call_in_task
from motia_redis._web.middleware import run_through
from motia_redis._web.validation import Rejection, Validation

if TYPE_CHECKING:
    from starlette.responses import Response

    from motia_redis._steps.context import FlowContext
    from motia_redis._steps.definitions import Step
    from motia_redis._steps.inputs import ApiRequest
    from motia_redis._steps.schemas import Mismatch
    from motia_redis._steps.triggers import HttpTrigger

# As Motia answers: the request is well-formed, and skipped.
_NOT_MET = Rejection(422, {"error": "the condition of the route is not met", "skipped": True})


class Route:
    """Answer the requests of one HTTP trigger."""

    def __init__(self, trigger: HttpTrigger, step: Step) -> None:
        self.trigger = trigger
        self.step = step
        self.segments = trigger.segments
        self.index = next(index for index, each in enumerate(step.triggers) if each is trigger)
        self._validation = Validation(trigger)
        self._is_plain = trigger.condition is None and not trigger.middleware and not self._validation.checks_requests

    async def run(self, request: ApiRequest, ctx: FlowContext) -> Any:
        """Return what the handler returned, or what stands for it. Raises whatever users' functions raise."""
        # In a task of its own: a handler that cancels its task must not look like a server that cancels the request.
        return await call_in_task(self.step.handler if self._is_plain else self._run_all, request, ctx)

    def response_mismatches(self, result: Any, response: Response) -> list[Mismatch]:
        """Return where the response of a result does not match the schema of its status."""
        return self._validation.response_mismatches(result, response)

    async def _run_all(self, request: ApiRequest, ctx: FlowContext) -> Any:
        if self.trigger.condition is not None:
            is_met = call_here(self.trigger.condition, request, ctx)
            if not (await Apart(is_met) if inspect.isawaitable(is_met) else is_met):
                return _NOT_MET
        return await run_through(self.trigger.middleware, self._handle, request, ctx)

    async def _handle(self, request: ApiRequest, ctx: FlowContext) -> Any:
        rejection = self._validation.rejection_of(request)
        return await call(self.step.handler, request, ctx) if rejection is None else rejection
