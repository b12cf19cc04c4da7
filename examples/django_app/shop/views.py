"""Sync views use `motia_redis.sync`, async views use `motia_redis`. Both share the data."""

import logging

from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

import motia_redis
from motia_redis import sync
from shop.models import Order

log = logging.getLogger(__name__)
state = sync.StateManager()  # $MOTIA_REDIS_URL; each process connects with its first call
async_state = motia_redis.StateManager()  # it has connections of its own for each event loop


@csrf_exempt
@require_POST
def add_item(_request: HttpRequest, user: str, item: str) -> JsonResponse:
    ops = [
        {"op": "merge", "path": "/items", "value": {}},  # creates the object if it is missing
        {"op": "increment", "path": f"/items/{item}", "value": 1},
        {"op": "replace", "path": "/status", "value": "open"},
    ]
    return JsonResponse(state.update("carts", user, ops))


@csrf_exempt
@require_POST
def order(_request: HttpRequest, user: str) -> JsonResponse:
    log.info("%s orders", user)
    return JsonResponse(state.update("carts", user, [{"op": "replace", "path": "/status", "value": "ordered"}]))


@require_GET
async def cart(_request: HttpRequest, user: str) -> JsonResponse:
    return JsonResponse(await async_state.get("carts", user) or {})


@require_GET
def orders(_request: HttpRequest, user: str) -> JsonResponse:
    return JsonResponse({"orders": [order.items for order in Order.objects.filter(cart=user)]})
