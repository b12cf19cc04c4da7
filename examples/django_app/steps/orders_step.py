"""A step that uses Django's database: `motia-redis worker steps`, started in the folder of manage.py."""

import os
import sys
from pathlib import Path

import django

from motia_redis import StateTriggerInput, SyncFlowContext, state, step

sys.path.insert(0, str(Path(__file__).parent.parent))  # the folder of manage.py
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
django.setup()

from django.db import close_old_connections  # noqa: E402 - after `django.setup()`
from shop.models import Order  # noqa: E402


def is_ordered(input: StateTriggerInput) -> bool:
    return input.new_value is not None and input.new_value["status"] == "ordered"


@step({"name": "CreateOrder", "triggers": [state(is_ordered, scope="carts")]})
def create_order(input: StateTriggerInput, ctx: SyncFlowContext) -> None:
    close_old_connections()
    # The handler may run again, so the order has the revision of the event, which is the same then.
    Order.objects.get_or_create(
        revision=input.revision, defaults={"cart": input.item_id, "items": input.new_value.get("items", {})}
    )
    ctx.logger.info("order created", {"cart": input.item_id})
