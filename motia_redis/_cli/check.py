"""Define the command `check`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from motia_redis._cli.output import counted, plain, print_json, table

if TYPE_CHECKING:
    from motia_redis._steps.definitions import Step


@click.command()
@click.argument("app", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(*, app: tuple[str, ...], as_json: bool) -> None:
    """Load an application and report its steps, triggers and problems. It connects to nothing.

    APP is a Python file, a folder of *_step.py and *.step.py files, or a module. Modules are imported, so what they do at import
    happens. The exit code is 1 if something is wrong.

    \b
    Example:
      motia-redis check app.py
      motia-redis check steps/
      motia-redis check steps/ --json
    """  # noqa: D301
    from motia_redis._steps.loading import check_application  # noqa: PLC0415 - slow

    steps, problems = check_application(app)
    texts = [" ".join(str(problem).split()) for problem in problems]
    notes = _notes(steps)
    if as_json:
        print_json({"steps": [_facts(step) for step in steps], "problems": texts, "notes": notes})
    else:
        _print(steps, texts, notes)
    if problems:
        sys.exit(1)


def _facts(step: Step) -> dict[str, Any]:
    from motia_redis._steps.application import place_of  # noqa: PLC0415 - slow

    triggers = [str(trigger) for trigger in step.triggers]
    limits = {"concurrency": step.concurrency, "rate": step.rate}
    return {"name": step.name, "place": place_of(step), "triggers": triggers, "enqueues": list(step.enqueues), **limits}


def _print(steps: list[Step], problems: list[str], notes: list[str]) -> None:
    rows = []
    for facts in map(_facts, steps):
        for index, trigger in enumerate([*(facts["triggers"] or ["(no trigger: it never runs)"]), *_limits(facts)]):
            rows.append([facts["name"] if index == 0 else "", trigger, facts["place"] if index == 0 else ""])
    if rows:
        table(["STEP", "TRIGGER", "PLACE"], rows)
    for note in notes:
        click.echo(f"note: {plain(note)}")
    for problem in problems:
        click.echo(f"problem: {plain(problem)}")
    click.echo(f"{counted(len(steps), 'step')}, {counted(len(problems), 'problem')}")


def _limits(facts: dict[str, Any]) -> list[str]:
    """Return what limits a step, as one line, if anything does."""
    said = [] if facts["concurrency"] is None else [f"{facts['concurrency']} at once in a worker"]
    said += [] if facts["rate"] is None else [f"{facts['rate']} over all workers"]
    return [f"(at most {', '.join(said)})"] if said else []


def _notes(steps: list[Step]) -> list[str]:
    """Return what may be meant so: topics that a step sends to, and that no step here handles; limits that limit nothing."""
    handled = {trigger.topic for step in steps for trigger in step.queue_triggers}
    notes = [
        f"step {step.name!r} enqueues {topic!r}, and no step here has a queue trigger for it"
        for step in steps
        for topic in step.enqueues
        if topic not in handled
    ]
    return notes + [
        f"step {step.name!r} has 'concurrency' or 'rate', which do not limit HTTP triggers, and no other trigger"
        for step in steps
        if (step.concurrency or step.rate) and step.triggers == step.http_triggers != ()
    ]
