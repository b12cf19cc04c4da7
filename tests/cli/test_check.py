"""The command `check`: what an application has, and what is wrong with it, without Redis."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

ORDERS = """
from motia_redis import http, queue, step

TRIGGERS = [http("POST", "/orders"), queue("retry", condition=lambda data: True)]

@step({"name": "CreateOrder", "triggers": TRIGGERS, "enqueues": ["mail", "audit"]})
async def create(request): ...
"""
MAIL = """
from motia_redis import queue

config = {"name": "Mail", "triggers": [queue("mail")]}

def handler(data): ...
"""
NEVER = """
from motia_redis import step

diagram = step({"name": "Diagram", "triggers": []}, lambda data: None)
"""


def check(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command where no Redis can be reached."""
    command = [sys.executable, "-m", "motia_redis", "check", *arguments]
    env = {**os.environ, "MOTIA_REDIS_URL": "redis://127.0.0.1:1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd, env=env, check=False)


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name.replace('__', '.')}.py").write_text(text)


def test_steps_triggers_and_places_are_shown(tmp_path: Path) -> None:
    write(tmp_path, orders_step=ORDERS, mail__step=MAIL, never_step=NEVER)
    done = check(".", cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "STEP         TRIGGER                      PLACE",
        "Mail         queue mail                   mail.step.py:6",
        "Diagram      (no trigger: it never runs)  never_step.py:4",
        "CreateOrder  POST /orders                 orders_step.py:6",
        "             queue retry (condition)",
        "note: step 'CreateOrder' enqueues 'audit', and no step here has a queue trigger for it",
        "3 steps, 0 problems",
    ]
    assert (done.returncode, done.stderr) == (0, "")


def test_all_problems_are_shown_with_file_and_line(tmp_path: Path) -> None:
    write(
        tmp_path,
        a_step=ORDERS,
        b_step=ORDERS,
        c_step="import nothing_of_the_kind\n",
        d_step="from motia_redis import step\n\nstep({'name': 'D', 'triggers': [3]})\n",
        e_step="config = {'name': 'E', 'subscribes': ['a'], 'triggers': []}\ndef handler(data): ...\n",
        f_step="value = 1\n",
    )
    done = check(".", "nowhere.py", cwd=tmp_path)
    places = "a_step.py:6 and b_step.py:6"
    assert [line for line in done.stdout.splitlines() if line.startswith("problem: ")] == [
        "problem: c_step.py:1: ModuleNotFoundError: No module named 'nothing_of_the_kind'",
        (
            "problem: d_step.py:3: StepError: step 'D': 3 is no trigger; accepted are "
            "http(...), state(...), queue(...), cron(...) or stream(...)"
        ),
        "problem: e_step.py: step 'E': 'subscribes' is a key of Motia 0.x; write 'triggers': [queue(topic)] for each topic",
        "problem: f_step.py: no step in it; a step is a module-level `step({...})`, or `config` and `handler`",
        "problem: no such file or folder: nowhere.py",
        f"problem: two steps are named 'CreateOrder' ({places}); give each step a name of its own",
        f"problem: step 'CreateOrder': POST /orders is a route of step 'CreateOrder' already ({places}); remove one of the two",
    ]
    assert done.stdout.splitlines()[-1] == "2 steps, 7 problems"
    assert done.returncode == 1


def test_json_has_the_same_facts(tmp_path: Path) -> None:
    write(tmp_path, orders_step=ORDERS, f_step="value = 1\n")
    done = check(".", "--json", cwd=tmp_path)
    facts = json.loads(done.stdout)
    assert facts["steps"] == [
        {
            "name": "CreateOrder",
            "place": "orders_step.py:6",
            "triggers": ["POST /orders", "queue retry (condition)"],
            "enqueues": ["mail", "audit"],
            "concurrency": None,
            "rate": None,
        }
    ]
    assert len(facts["problems"]) == 1
    assert done.returncode == 1


def test_nothing_to_check_is_an_error_of_usage(tmp_path: Path) -> None:
    done = check(cwd=tmp_path)
    assert done.returncode == 2
    assert "Missing argument 'APP...'" in done.stderr


LIMITED = """
from motia_redis import http, queue, step

@step({"name": "Limited", "triggers": [queue("mail", config={"concurrency": 2})], "concurrency": 4, "rate": "600/m"})
def limited(data): ...

@step({"name": "Page", "triggers": [http("GET", "/")], "rate": "1/s"})
def page(request): ...
"""


def test_limits_of_a_step_are_shown(tmp_path: Path) -> None:
    write(tmp_path, limited_step=LIMITED)
    done = check(".", cwd=tmp_path)
    assert [" ".join(line.split()) for line in done.stdout.splitlines()[1:4]] == [
        "Limited queue mail limited_step.py:4",
        "(at most 2 at once in a worker, 600/m over all workers)",
        "Page GET / limited_step.py:7",
    ]
    assert "note: step 'Page' has 'concurrency' or 'rate', which do not limit HTTP triggers, and no other trigger" in done.stdout
    limits = {
        found["name"]: (found["concurrency"], found["rate"])
        for found in json.loads(check(".", "--json", cwd=tmp_path).stdout)["steps"]
    }
    assert limits == {"Limited": (2, "600/m"), "Page": (None, "1/s")}


def test_limits_that_do_not_fit_name_step_key_and_file(tmp_path: Path) -> None:
    for key, value, wording in (
        ("rate", "10 per second", "text such as '10/s', '600/m', '1000/h' or '5000/d'"),
        ("rate", 10, "text such as"),
        ("concurrency", 0, "an integer of at least 1"),
        ("concurrency", True, "an integer of at least 1"),
    ):
        text = f"from motia_redis import queue, step\nstep({{'name': 'A', 'triggers': [queue('a')], {key!r}: {value!r}}})\n"
        write(tmp_path, a_step=text)
        done = check(".", cwd=tmp_path)
        assert done.returncode == 1
        assert "a_step.py" in done.stdout
        assert f"step 'A': {key!r} must be {wording}" in done.stdout
        assert repr(value) in done.stdout
