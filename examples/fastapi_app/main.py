"""A FastAPI application with routes of its own, mounted steps, and a worker in each process.

uvicorn main:app --workers 2
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse

from motia_redis import StateManager, Worker, create_web_app, load_application
from motia_redis.errors import StateUnavailable

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(process)d %(name)s: %(message)s")

state = StateManager()  # $MOTIA_REDIS_URL; it connects in `lifespan`
application = load_application([Path(__file__).parent / "steps"])


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with state, Worker(application, state, grace=20):
        yield


def get_state() -> StateManager:
    return state


app = FastAPI(lifespan=lifespan)
app.mount("/steps", create_web_app(application, state))


@app.exception_handler(StateUnavailable)
async def state_unavailable(_request: Request, _error: StateUnavailable) -> JSONResponse:
    return JSONResponse({"error": "the state is unavailable"}, 503, {"retry-after": "5"})


@app.put("/orders/{order_id}", status_code=201)
async def put_order(order_id: str, order: dict[str, Any], state: Annotated[StateManager, Depends(get_state)]) -> Any:
    return await state.set("orders", order_id, {"status": "new", **order})


@app.get("/orders/{order_id}")
async def get_order(order_id: str, state: Annotated[StateManager, Depends(get_state)]) -> Any:
    order = await state.get("orders", order_id)
    if order is None:
        raise HTTPException(404, "no such order")
    return order
