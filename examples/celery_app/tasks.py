"""A Celery application whose tasks share state.

celery -A tasks worker
"""

import os

from celery import Celery
from celery.utils.log import get_task_logger

from motia_redis.sync import StateManager

app = Celery("tasks", broker=os.environ.get("CELERY_BROKER_URL", "redis://localhost:6379/1"))
# A task whose worker process is killed runs again. So it gives its changes an idempotency key.
app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True, task_ignore_result=True)

state = StateManager()  # $MOTIA_REDIS_URL; each process of the worker connects with its first call
log = get_task_logger(__name__)


@app.task(bind=True)
def count(self, page: str) -> None:
    ops = [{"op": "increment", "path": "/count", "value": 1}]
    visits = state.update("visits", page, ops, idempotency_key=f"count {self.request.id}")
    log.info("visit %s of %s", visits["count"], page)


@app.task
def send_mail(order: str, status: str) -> None:
    state.set("mails", order, {"text": f"Your order {order} is {status}.", "process": os.getpid()})
    log.info("mail sent for %s", order)
