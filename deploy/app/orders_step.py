"""The application of compose.yaml: an HTTP step, and steps for state, messages and times. Put your own in its place."""

from motia_redis import ApiRequest, ApiResponse, CronTriggerInput, FlowContext, StateTriggerInput, cron, http, queue, state, step


@step({"name": "CreateOrder", "triggers": [http("POST", "/orders/:id")]})
async def create_order(request: ApiRequest, ctx: FlowContext) -> ApiResponse:
    """Store an order. The change fires ShipOrder, in whichever worker holds its lane."""
    order = {"status": "paid", **(request.body or {})}
    return ApiResponse(status=201, body=await ctx.state.set("orders", request.path_params["id"], order))


@step({"name": "ShipOrder", "triggers": [state(lambda input: input.new_value is not None, scope="orders")]})
async def ship_order(input: StateTriggerInput, ctx: FlowContext) -> None:
    """Ship an order with an address. One without fails, is tried again, and becomes a dead letter."""
    ctx.logger.info("shipping", {"order": input.item_id, "address": input.new_value["address"]})
    await ctx.enqueue({"topic": "mail", "data": {"order": input.item_id}})


@step({"name": "SendMail", "triggers": [queue("mail")], "effects_once": True})
async def send_mail(data: dict[str, str], ctx: FlowContext) -> None:
    """Count the mails, once for each message, however often the handler runs."""
    await ctx.state.update("mails", "count", [{"op": "increment", "path": "", "value": 1}])


@step({"name": "Report", "triggers": [cron("* * * * *")]})
async def report(input: CronTriggerInput, ctx: FlowContext) -> None:
    """Log the number of mails once a minute, in one process of all."""
    ctx.logger.info("mails sent", {"count": await ctx.state.get("mails", "count")})
