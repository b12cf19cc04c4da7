"""A step that starts a Celery task for each change of an order: `motia-redis worker steps`, in the folder of tasks.py."""

import sys
from pathlib import Path

from motia_redis import StateTriggerInput, state, step

sys.path.insert(0, str(Path(__file__).parent.parent))  # the folder of tasks.py

from tasks import send_mail


@step({"name": "MailOrder", "triggers": [state(scope="orders")]})
def mail_order(input: StateTriggerInput) -> None:  # `def`: Celery's `delay` blocks
    if input.new_value is not None:
        send_mail.delay(input.item_id, input.new_value["status"])
