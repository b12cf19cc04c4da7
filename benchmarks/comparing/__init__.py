"""The parts of `benchmarks.compare`: the builds, their processes, the workloads and the report."""
