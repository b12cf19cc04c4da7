"""One module per contender, each run in processes of its own by `benchmarks.triggering.child`.

A module has `work(job, meter)`, which hands every event it gets to `meter.handle` and may run for ever, and `sending(job)`, an
async context manager that gives an async function which sends one event. They import nothing but their library and the
modules `job` and `meter`, since rivals live in environments of their own.
"""
