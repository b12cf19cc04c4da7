"""Steps: `PayOrder` answers requests below the path where FastAPI mounts them, `ShipOrder` runs in the workers."""

import os

from motia_redis import ApiRequest, FlowContext, StateTriggerInput, http, state, step


@step({"name": "PayOrder", "triggers": [http("POST", "/orders/:id/pay")]})
async def pay(request: ApiRequest, ctx: FlowContext) -> dict:
    ops = [{"op": "replace", "path": "/status", "value": "paid"}]
    order = await ctx.state.update("orders", request.path_params["id"], ops)
    ctx.logger.info("order paid", {"order": request.path_params["id"]})
    return {"body": order}


def is_paid(input: StateTriggerInput) -> bool:
    return input.new_value is not None and input.new_value["status"] == "paid"


@step({"name": "ShipOrder", "triggers": [state(is_paid, scope="orders")]})
async def ship(input: StateTriggerInput, ctx: FlowContext) -> None:
    ctx.logger.info("order shipped", {"order": input.item_id})
    # `process` only shows which of the processes has handled the event.
    ops = [{"op": "increment", "path": "/times", "value": 1}, {"op": "replace", "path": "/process", "value": os.getpid()}]
    await ctx.state.update("shipments", input.item_id, ops)
