"""One adapter per library. `benchmarks.triggering.child` runs an adapter in its own process.

An adapter has `work(job, meter)`, which passes each event to `meter.handle` and may run for ever, and `sending(job)`, an async
context manager that yields an async function, which sends one event. An adapter imports only its library and the modules `job`,
`meter` and `child`, because each rival has its own environment.
"""
