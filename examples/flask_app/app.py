"""A Flask application. Its steps run beside it, in processes of `motia-redis worker steps`.

flask run                                  for development
gunicorn --preload --workers 2 app:app     in production
"""

import logging
from typing import Any

from flask import Flask

from motia_redis.sync import StateManager

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(process)d %(name)s: %(message)s")

app = Flask(__name__)
state = StateManager()  # $MOTIA_REDIS_URL; each process connects with its first call


@app.post("/visits/<page>")
def visit(page: str) -> Any:
    visits = state.update("visits", page, [{"op": "increment", "path": "/count", "value": 1}])
    app.logger.info("visit %s of %s", visits["count"], page)
    return visits


@app.get("/visits/<page>")
def visits(page: str) -> Any:
    return state.get("visits", page) or {"count": 0}


@app.get("/prizes/<page>")
def prize(page: str) -> Any:
    prize = state.get("prizes", page)
    return ({"error": "no prize"}, 404) if prize is None else prize
