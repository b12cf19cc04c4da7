"""Define the commands `status` and `doctor`."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from motia_redis._cli.namespace import json_option, place, redacted, run_on_namespace
from motia_redis._cli.options import connection_options
from motia_redis._cli.output import counted, plain, print_json, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from motia_redis._admin.status import Status, StepStatus
    from motia_redis._transport.health import Finding

_OVERDUE = 5.0  # seconds: no process sends what is due


@click.command()
@connection_options
@json_option
def status(*, redis_url: str | None, namespace: str, as_json: bool) -> None:
    """Show steps, their lag, workers and dead letters.

    \b
    LAG      entries that no worker has read yet
    PENDING  entries that were read and are not handled yet
    OLDEST   age in seconds of the oldest entry that is not handled
    LANES    lanes that a live worker holds, of all lanes that a version of the step wants
    DEAD     dead letters of the step

    \b
    HEARTBEAT  seconds since the worker's last heartbeat
    VERSION    of the library in the worker

    \b
    Example:
      motia-redis status --redis redis://localhost:6379/0
      motia-redis status --json
    """  # noqa: D301 - \b is click's mark for a paragraph that must not be wrapped
    from dataclasses import asdict  # noqa: PLC0415 - slow

    from motia_redis._admin.status import read_status  # noqa: PLC0415

    found = run_on_namespace(redis_url, namespace, read_status)
    if as_json:
        print_json({"redis": redacted(redis_url), **asdict(found)})
    else:
        click.echo(f"{place(redis_url, namespace)}\n")
        _print_status(found)


def _print_status(found: Status) -> None:
    if found.steps:
        head = ["STEP", "LAG", "PENDING", "OLDEST", "LANES", "DEAD"]
        rows = [
            [
                step.name,
                f"{step.lag}{'' if step.lag_exact else '+'}",
                step.pending,
                "-" if step.oldest_age is None else f"{step.oldest_age:.1f}",
                f"{step.lanes_held}/{step.lanes}",
                step.dead_letters,
            ]
            for step in found.steps
        ]
        table(head, rows, right=head[1:])
    else:
        click.echo("no steps")
    for step in found.steps:
        _print_pause(step)
        _print_failing(step)
        _print_slow(step, found)
        _print_schedules(step)
        _print_versions(step)
    click.echo()
    for topic in found.topics:
        click.echo(plain(f"topic {topic.name}: {counted(topic.messages, 'message')}, and no step consumes it yet"))
    if found.delayed:
        overdue = found.next_due_in is not None and found.next_due_in < -_OVERDUE
        text = "no process sends what is due: start a worker" if overdue else "motia-redis scheduled list"
        click.echo(f"{counted(found.delayed, 'delayed message')} waiting for their time: {text}")
    if found.dropped:
        count = counted(sum(found.dropped.values()), "unhandled entry or dead letter", "unhandled entries and dead letters")
        click.echo(
            f"caps of the retention have removed {count}: {plain(', '.join(f'{k} {v}' for k, v in found.dropped.items()))}\n"
        )
    if found.workers:
        head = ["WORKER", "HOST", "PID", "VERSION", "HEARTBEAT", "LANES"]
        lanes = [" ".join(f"{name}:{count}" for name, count in worker.lanes.items()) for worker in found.workers]
        rows = [
            [w.id, w.host, w.pid, w.version, f"{w.heartbeat_age:.1f}", text] for w, text in zip(found.workers, lanes, strict=True)
        ]
        table(head, rows, right=["PID", "HEARTBEAT"])
    else:
        click.echo("no workers")
    for worker in found.silent:
        click.echo(
            plain(
                f"worker {worker.id} (process {worker.pid} on {worker.host}): no heartbeat for {worker.heartbeat_age:.0f} s, "
                "and it did not leave: it is paused, cut off from Redis, or was killed"
            )
        )


def _print_failing(step: StepStatus) -> None:
    for key in step.failing:
        wait = f"next in {key.next_in:.1f} s" if key.next_in > 0 else "the next one runs, or is about to"
        text = f"{counted(key.attempts, 'attempt')} failed, {wait}; its event is {key.age:.0f} s old"
        click.echo("  " + plain(f"{step.name}: {key.subject}: {text}"))
    if step.keys_failing > len(step.failing):
        click.echo("  " + plain(f"{step.name}: {step.keys_failing - len(step.failing)} more keys fail"))


def _print_slow(step: StepStatus, found: Status) -> None:
    for worker in found.workers:
        for handler in worker.slow:
            if handler.step == step.name:
                seconds = handler.seconds + worker.heartbeat_age
                text = f"the handler has run for {seconds:.0f} s in process {worker.pid} on {worker.host}"
                click.echo("  " + plain(f"{step.name}: {handler.subject}: {text} (attempt {handler.attempt})"))


def _print_pause(step: StepStatus) -> None:
    if step.paused_for is not None:
        since = timedelta(seconds=round(step.paused_for))
        click.echo("  " + plain(f"{step.name}: paused for {since}, nothing is handled: motia-redis steps resume {step.name!r}"))


def _print_schedules(step: StepStatus) -> None:
    for schedule in step.schedules:
        if schedule.next_in is None and step.paused_for is not None:
            text = "its times are missed while the step is paused"
        elif schedule.next_in is None:
            text = "not scheduled: no process says which time is next: start a worker"
        elif schedule.next_in < -_OVERDUE:
            text = "overdue: no process fires it: start a worker"
        else:
            text = f"next in {timedelta(seconds=round(max(0.0, schedule.next_in)))}"
        click.echo("  " + plain(f"{step.name}: cron {schedule.name}: {text}"))


def _print_versions(step: StepStatus) -> None:
    """Print what an operator of a deploy has to know: versions of a step side by side, and lanes that none of them wants."""
    if len(step.versions) > 1:
        for version in step.versions:
            click.echo("  " + plain(f"{step.name}: {counted(version.workers, 'worker')} of a version for {version.wanted}"))
    if step.lanes_unwanted:
        lanes = counted(step.lanes_unwanted, "lane")
        held = plain(", ".join(step.unwanted))
        click.echo(f"  {step.name}: no version wants {lanes} any more ({held}): motia-redis steps forget {step.name!r} --lanes")


@click.command()
@connection_options
@json_option
@click.option(
    "--stuck-after",
    type=click.FloatRange(min=5),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="From then on a key whose handler runs is stuck.",
)
def doctor(*, redis_url: str | None, namespace: str, as_json: bool, stuck_after: float) -> None:
    """Check that Redis is configured for durability, and find what is wrong with the namespace.

    Each finding that is not ok has a remedy.

    \b
    ok       nothing to do
    warning  state may get lost in a crash, something waits, or an error is near
    failed   nothing works, or state gets lost in operation
    unknown  Redis rejects what the check needs for this user, or does not report it

    The exit code is 1 if a check failed.

    \b
    Example:
      motia-redis doctor --redis redis://localhost:6379/0
      motia-redis doctor --json
      motia-redis doctor --stuck-after 300
    """  # noqa: D301
    from dataclasses import asdict  # noqa: PLC0415 - slow

    from motia_redis._admin.doctor import examine  # noqa: PLC0415

    found = run_on_namespace(redis_url, namespace, lambda state: examine(state, stuck_after=stuck_after), must_exist=False)
    if as_json:
        print_json({"redis": redacted(redis_url), **asdict(found)})
    else:
        for server in found.servers:
            click.echo(server.address)
            _print_findings(server.findings)
        click.echo(f"\n{place(redis_url, namespace)}")
        _print_findings(found.findings)
    if found.has_failed:
        sys.exit(1)


def _print_findings(findings: Sequence[Finding]) -> None:
    for finding in findings:
        click.echo(f"  {finding.outcome:<8} {finding.check:<14} {plain(finding.found)}")
        if finding.remedy and finding.outcome != "ok":
            click.echo(f"  {'':<8} {'':<14} -> {plain(finding.remedy)}")
