"""The parts of `benchmarks.triggers`: contenders and their adapters, processes, measurements, goals, report."""
