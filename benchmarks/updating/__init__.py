"""The parts of `benchmarks.update`: documents, contenders, worst-case documents, goals, report."""
