"""The parts of `benchmarks.growth`: the data set, the series, the worker processes, the report."""
