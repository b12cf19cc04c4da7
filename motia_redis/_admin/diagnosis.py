"""Judge the status of a namespace, and samples of what it holds: from numbers to findings with remedies. Pure functions."""

from __future__ import annotations

import shlex
from collections import defaultdict
from typing import TYPE_CHECKING

from motia_redis._transport.health import Finding

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from motia_redis._admin.sampling import Held, HotKey, Letters, Sizes
    from motia_redis._admin.status import Status, StepStatus, WorkerStatus
    from motia_redis._store.keyspace import Layout
    from motia_redis._store.namespaces import Rejection

_MOST = 5  # findings of one check; the last one says how many more there are
_LATE = 5.0  # seconds after its time at which something is late, as `motia-redis status` says it
_OLD = 60.0  # seconds after which entries that are not handled are a backlog
_LATE_HEARTBEAT = 0.5  # of a lease; heartbeats come each sixth of it
_MUCH_HELD = 8 * 1024 * 1024  # bytes
_HOT = (100, 20.0)  # changes in a sample, and changes a second: one handler of 50 ms is busy with them
_MANY_KEYS = 1_000_000  # of one scope
_LARGE_VALUE = 256 * 1024  # bytes
_UNEVEN = 1.5  # share of the fullest primary, relative to the mean
_PARTITIONS = 16  # for each primary, so that the shares are about even


def judge_status(status: Status, *, stuck_after: float) -> list[Finding]:
    """Return the findings about what `motia-redis status` shows, but for dead letters."""
    return [
        *_workers(status),
        *_library(status),
        *_versions(status),
        *_lanes(status),
        *_unwanted_lanes(status),
        *_paused(status),
        *_stuck_keys(status, stuck_after),
        *_backlog(status, stuck_after),
        *_schedules(status),
        *_due(status),
        *_unread_topics(status),
        *_dropped(status),
    ]


def _or_ok(check: str, found: Sequence[Finding], ok: str) -> list[Finding]:
    """Return the first findings, or one that says that all is well."""
    if not found:
        return [Finding(check, "ok", ok)]
    if len(found) <= _MOST:
        return list(found)
    rest = len(found) - _MOST + 1
    return [*found[: _MOST - 1], Finding(check, found[-1].outcome, f"and {rest} more", "motia-redis status --json has all")]


def _counted(number: int, noun: str, *, is_exact: bool = True) -> str:
    """Return a number of things, with "or more" if it is not exact."""
    plural = noun if number == 1 else f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number}{'' if is_exact else ' or more'} {plural}"


# -- workers ----------------------------------------------------------------------------------------------------------


def _process(worker: WorkerStatus) -> str:
    return f"process {worker.pid} on {worker.host}"


def _some(workers: Sequence[WorkerStatus]) -> str:
    """Name a few workers."""
    more = f" and {len(workers) - 3} more" if len(workers) > 3 else ""
    return ", ".join(map(_process, workers[:3])) + more


def _workers(status: Status) -> list[Finding]:
    found = []
    for worker in status.silent:
        lanes = sum(worker.lanes.values())
        text = f"{_process(worker)}: no heartbeat for {worker.heartbeat_age:.0f} s, and it did not leave"
        held = f"; nobody has taken {lanes} of its lanes" if lanes else ""
        remedy = (
            f"it is paused, cut off from Redis, or was killed: look at it (ps -o stat= -p {worker.pid}; T = stopped: "
            f"kill -CONT {worker.pid}), or start another one"
        )
        found.append(Finding("workers", "warning", text + held, remedy))
    for worker in status.workers:
        if worker.heartbeat_age > worker.lease * _LATE_HEARTBEAT:
            text = f"{_process(worker)}: the last heartbeat is {worker.heartbeat_age:.1f} s old, of a lease of {worker.lease:g} s"
            remedy = "it is paused, or a handler blocks its event loop: its log names the step"
            found.append(Finding("workers", "warning", text, remedy))
    live = len(status.workers)
    return _or_ok("workers", found, f"{live} live worker{'' if live == 1 else 's'}")


def _library(status: Status) -> list[Finding]:
    by_version: defaultdict[str, list[WorkerStatus]] = defaultdict(list)
    for worker in status.workers:
        by_version[worker.version].append(worker)
    if len(by_version) < 2:
        text = f"all workers run version {next(iter(by_version))}" if by_version else "no live worker"
        return [Finding("library", "ok", text)]
    parts = []
    for version, workers in sorted(by_version.items(), key=lambda each: len(each[1])):
        parts.append(f"{version} in {_some(workers)}")
    text = f"workers run different versions of motia-redis: {'; '.join(parts)}"
    return [Finding("library", "warning", text, "if no deploy is going on: restart the workers of the older version")]


def _versions(status: Status) -> list[Finding]:
    found = []
    workers = {worker.id: worker for worker in status.workers}
    for step in status.steps:
        if len(step.versions) > 1:
            parts = [f"{each.wanted} ({_some([workers[name] for name in each.worker_ids])})" for each in step.versions]
            text = f"step {step.name}: workers of {len(parts)} versions: for {'; for '.join(parts)}"
            remedy = "if no deploy is going on: end the workers of the older version"
            found.append(Finding("versions", "warning", text, remedy))
    return _or_ok("versions", found, "all workers of a step want the same")


# -- lanes and keys ---------------------------------------------------------------------------------------------------


def _forget(step: str, *options: str) -> str:
    return " ".join(["motia-redis steps forget", shlex.quote(step), *options])


def _lanes(status: Status) -> list[Finding]:
    found = []
    for step in status.steps:
        free = step.lanes - step.lanes_held
        if not free:
            continue
        waiting = step.lag + step.pending
        if step.versions:
            text = f"step {step.name}: no live worker holds {free} of its {step.lanes} lanes"
            remedy = "wait for the lease of their last holder (3 s by default), then look at the workers' logs"
            found.append(Finding("lanes", "warning", text, remedy))
        else:
            entries = f", and {_counted(waiting, 'entry', is_exact=step.lag_exact)} waiting" if waiting else ""
            text = f"step {step.name}: no live worker runs it{entries}"
            remedy = f"start a worker of it; if the step is gone for good: {_forget(step.name)}"
            found.append(Finding("lanes", "failed" if waiting else "warning", text, remedy))
    return _or_ok("lanes", found, "live workers hold all lanes")


def _unwanted_lanes(status: Status) -> list[Finding]:
    found = []
    for step in status.steps:
        if step.lanes_unwanted:
            text = f"step {step.name}: no live version wants {_counted(step.lanes_unwanted, 'lane')} ({', '.join(step.unwanted)})"
            remedy = f"{_forget(step.name, '--lanes')}: it drops the events that these lanes hold back"
            found.append(Finding("unwanted-lanes", "warning", text, remedy))
    return _or_ok("unwanted-lanes", found, "live versions want all lanes")


def _paused(status: Status) -> list[Finding]:
    found = []
    for step in status.steps:
        if step.paused_for is not None:
            waiting = _counted(step.lag + step.pending, "entry", is_exact=step.lag_exact)
            text = f"step {step.name} was paused {step.paused_for:.0f} s ago, with {waiting} waiting"
            remedy = f"motia-redis steps resume {shlex.quote(step.name)}"
            found.append(Finding("paused", "warning", text, remedy))
    return _or_ok("paused", found, "no step is paused")


def _is_slow(seconds: float, stuck_after: float) -> bool:
    return seconds >= stuck_after


def _stuck_keys(status: Status, stuck_after: float) -> list[Finding]:
    found = []
    for step in status.steps:
        for key in step.failing:
            text = f"step {step.name}: {key.subject}: {key.attempts} attempts failed in {key.age:.0f} s"
            remedy = "the workers' log has the error; later events of the key wait until the handler succeeds or gives up"
            found.append(Finding("stuck-keys", "warning", text, remedy))
    for worker in status.workers:
        for handler in worker.slow:
            seconds = handler.seconds + worker.heartbeat_age
            if _is_slow(seconds, stuck_after):
                place = f"in {_process(worker)} (attempt {handler.attempt})"
                text = f"step {handler.step}: {handler.subject}: the handler has run for {seconds:.0f} s {place}"
                remedy = "find what the handler waits for; later events of the key wait. `timeout` of the step ends such attempts"
                found.append(Finding("stuck-keys", "warning", text, remedy))
    return _or_ok("stuck-keys", found, "no handler fails again and again, or runs for long")


def _is_explained(step: StepStatus, status: Status, stuck_after: float) -> bool:
    """Return whether another finding says why entries of a step are old."""
    slow = any(
        handler.step == step.name and _is_slow(handler.seconds + worker.heartbeat_age, stuck_after)
        for worker in status.workers
        for handler in worker.slow
    )
    if step.paused_for is not None or not step.versions or step.lanes_held < step.lanes:
        return True
    return (slow or step.keys_failing > 0) and not step.lag


def _backlog(status: Status, stuck_after: float) -> list[Finding]:
    found = []
    for step in status.steps:
        if (step.oldest_age or 0.0) >= _OLD and not _is_explained(step, status, stuck_after):
            count = _counted(step.lag + step.pending, "entry", is_exact=step.lag_exact)
            text = f"step {step.name}: {count} not handled, the oldest for {step.oldest_age:.0f} s"
            remedy = f"start more workers (up to {step.lanes}, its lanes), raise --concurrency, or make the handler faster"
            found.append(Finding("backlog", "warning", text, remedy))
    return _or_ok("backlog", found, "workers keep up")


# -- times, topics and what was dropped -------------------------------------------------------------------------------


def _schedules(status: Status) -> list[Finding]:
    found = []
    for step in status.steps:
        fired = {schedule for version in step.versions for schedule in version.schedules}
        for schedule in step.schedules:
            text = f"step {step.name}: schedule {schedule.name}"
            remedy = f"start a worker of step {step.name}"
            if schedule.next_in is not None and schedule.next_in < -_LATE:
                late = f"{text} is {-schedule.next_in:.0f} s late: no process fires it"
                found.append(Finding("schedules", "warning", late, remedy))
            elif schedule.next_in is None and schedule.name not in fired:
                found.append(Finding("schedules", "warning", f"{text} has no next time: no worker says it", remedy))
    return _or_ok("schedules", found, "all schedules fire in time")


def _due(status: Status) -> list[Finding]:
    if status.next_due_in is not None and status.next_due_in < -_LATE:
        text = f"something has been due for {-status.next_due_in:.0f} s: a delayed message, an expiry or a schedule"
        return [Finding("due", "warning", text, "start a worker, or a process with StateManager(sweep=True)")]
    return [Finding("due", "ok", "nothing is overdue")]


def _unread_topics(status: Status) -> list[Finding]:
    found = [
        Finding(
            "unread-topics",
            "warning",
            f"topic {topic.name}: {topic.messages} message{'' if topic.messages == 1 else 's'}, and no step consumes it",
            "check the topic's name in enqueue and in queue(...), or start a worker whose step has a trigger for it",
        )
        for topic in status.topics
    ]
    return _or_ok("unread-topics", found, "steps consume all topics")


def _dropped(status: Status) -> list[Finding]:
    entries = {stream: count for stream, count in status.dropped.items() if "}:dead:" not in stream}
    if not entries:
        return [Finding("dropped", "ok", "no cap has dropped an entry that was not handled")]
    places = ", ".join(f"{stream} {count}" for stream, count in list(entries.items())[:3])
    text = f"the hard cap has dropped {sum(entries.values())} unhandled entries since the namespace was made: {places}"
    return [Finding("dropped", "warning", text, "start more workers, or raise the retention: motia-redis settings")]


# -- samples ----------------------------------------------------------------------------------------------------------


def judge_letters(status: Status, letters: Mapping[str, Letters], now: int) -> list[Finding]:
    """Return the findings about dead letters, by step and error."""
    found = []
    for step in status.steps:
        if not step.dead_letters or step.name not in letters:
            continue
        sample = letters[step.name]
        causes = [
            f"{count} {cause.error}"
            + (f" of {'topic' if cause.topic else 'scope'} {cause.topic or cause.scope}" if any(cause[1:]) else "")
            for cause, count in list(sample.causes.items())[:3]
        ]
        of = "" if sample.seen == step.dead_letters else f" of the newest {sample.seen}"
        age = max(0, now - sample.newest) / 1000
        text = (
            f"step {step.name}: {_counted(step.dead_letters, 'dead letter')}, the newest {age:.0f} s old:{of} {', '.join(causes)}"
        )
        name = shlex.quote(step.name)
        remedy = f"motia-redis dead list --step {name}; after the repair: motia-redis dead retry --step {name} --all"
        found.append(Finding("dead-letters", "warning", text, remedy))
    return _or_ok("dead-letters", found, "there are none")


def judge_held(status: Status, held: Mapping[str, Held]) -> list[Finding]:
    """Return the findings about steps for which streams keep much memory."""
    found = []
    ages = {step.name: step.oldest_age for step in status.steps}
    for step, kept in sorted(held.items(), key=lambda each: -each[1].bytes):
        age = ages.get(step)
        if kept.bytes < _MUCH_HELD or (age is not None and age < _OLD):
            continue
        most = "" if kept.is_exact else " or more"
        text = (
            f"step {step}: {kept.streams} streams keep {kept.entries}{most} entries, {kept.bytes / 1e6:.0f} MB{most}, only for it"
        )
        remedy = f"see its other findings; if the step is gone for good: {_forget(step)}"
        found.append(Finding("held-memory", "warning", text, remedy))
    return _or_ok("held-memory", found, "no step makes streams keep much")


def judge_hot_keys(keys: Sequence[HotKey]) -> list[Finding]:
    """Return the findings about keys that are changed very often."""
    count, rate = _HOT
    found = []
    for key in keys:
        if key.changes >= count and key.per_second >= rate:
            subject = " ".join(f"{name} {text}" for name, text in key.event.items())
            text = f"{subject}: {key.per_second:.0f} changes a second in the newest events"
            remedy = "a step handles the events of one key one by one: split the key, or change it less often"
            found.append(Finding("hot-keys", "warning", text, remedy))
    return _or_ok("hot-keys", found, f"no key has {rate:.0f} changes a second, in samples of the newest events")


def judge_sizes(sizes: Sizes) -> list[Finding]:
    """Return the findings about the scopes with the most keys, and about the largest values."""
    of = "" if sizes.scopes_seen == sizes.scopes else f", of {sizes.scopes_seen} that were looked at"
    largest = ", ".join(f"{scope} {count}" for scope, count in sizes.largest_scopes) or "-"
    text = f"{sizes.scopes} scope{'' if sizes.scopes == 1 else 's'}; most keys{of}: {largest}"
    scopes = Finding("large-scopes", "ok", text)
    if sizes.largest_scopes and sizes.largest_scopes[0][1] >= _MANY_KEYS:
        remedy = "all keys of a scope are on one primary: split the scope by a part of the key"
        scopes = Finding("large-scopes", "warning", text, remedy)
    largest = ", ".join(f"scope {scope} key {key} {size} bytes" for scope, key, size in sizes.largest_values) or "-"
    seen = f"{sizes.values_seen} value{'' if sizes.values_seen == 1 else 's'} that were looked at"
    text = f"largest of {seen}: {largest}"
    values = Finding("large-values", "ok", text)
    if sizes.largest_values and sizes.largest_values[0][2] >= _LARGE_VALUE:
        remedy = "each change copies the value into its event: split it into several keys"
        values = Finding("large-values", "warning", text, remedy)
    return [scopes, values]


# -- the layout -------------------------------------------------------------------------------------------------------


def judge_layout(layout: Layout, shares: Mapping[str, int], rejection: Rejection | None, now: int) -> list[Finding]:
    """Return the findings about the layout. `shares`: how many partitions each primary has, by its address."""
    found = []
    name = f"{layout.partitions} partitions of {layout.lanes} lanes"
    if rejection is not None:
        age = max(0, now - rejection.time) / 1000
        text = f"process {rejection.pid} on {rejection.host} was rejected {age:.0f} s ago: {rejection.text}"
        found.append(Finding("layout", "warning", text, "repair what the process gives to StateManager(layout=, retention=)"))
    empty = [address for address, partitions in shares.items() if not partitions]
    fullest, mean = max(shares.values()), layout.partitions / len(shares)
    if empty or fullest > _UNEVEN * mean:
        uneven = f"{', '.join(empty[:3])} hold{'s' if len(empty) == 1 else ''} none" if empty else f"one holds {fullest}"
        text = f"{name} are too few for {len(shares)} primaries: {uneven}"
        remedy = f"move to a larger layout: motia-redis copy --to-layout {_PARTITIONS * len(shares)}x4"
        found.append(Finding("layout", "warning", text, remedy))
    return _or_ok("layout", found, name)
