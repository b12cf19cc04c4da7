"""A step that the notebook tries."""

from motia_redis import FlowContext, StateTriggerInput, state, step


@step({"name": "Total", "triggers": [state(scope="orders")]})
async def total(input: StateTriggerInput, ctx: FlowContext) -> None:
    if input.new_value is not None:
        await ctx.state.set("totals", input.item_id, {"with_tax": round(input.new_value["total"] * 1.19, 2)})
        ctx.logger.info("total computed", {"order": input.item_id})
