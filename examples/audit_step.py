"""Steps that count, in shared state, the events and messages that each process handles. The demo reads the counts."""

import os

from motia_redis import FlowContext, StateTriggerInput, queue, state, step

PROCESS = f"worker-{os.getpid()}"


def is_login(input: StateTriggerInput) -> bool:
    """Return whether the change is a login: the login count has grown."""
    return input.old_value is not None and input.new_value["login_count"] > input.old_value["login_count"]


@step({"name": "CountLogins", "triggers": [state(is_login, scope="users")]})
async def count_logins(input: StateTriggerInput, ctx: FlowContext) -> None:
    # Each login has its own count. An event that is handled twice makes it 2, and the demo reports the difference.
    login = f"{input.item_id} {input.new_value['login_count']}"
    ops = [{"op": "replace", "path": "/process", "value": PROCESS}, {"op": "increment", "path": "/firings", "value": 1}]
    await ctx.state.update("demo.firings", login, ops)


@step({"name": "ConsumeUserChanged", "triggers": [queue("user.changed")]})
async def consume_user_changed(input: dict, ctx: FlowContext) -> None:
    ops = [{"op": "replace", "path": "/process", "value": PROCESS}, {"op": "increment", "path": "/messages", "value": 1}]
    await ctx.state.update("demo.consumed", PROCESS, ops)
