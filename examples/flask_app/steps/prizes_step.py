"""Every tenth visit of a page wins a prize."""

from motia_redis import StateTriggerInput, SyncFlowContext, state, step


def is_tenth(input: StateTriggerInput) -> bool:
    return input.new_value is not None and input.new_value["count"] % 10 == 0


@step({"name": "GivePrize", "triggers": [state(is_tenth, scope="visits")]})
def give_prize(input: StateTriggerInput, ctx: SyncFlowContext) -> None:
    ctx.state.set("prizes", input.item_id, {"visit": input.new_value["count"]})
    ctx.logger.info("prize given", {"page": input.item_id, "visit": input.new_value["count"]})
