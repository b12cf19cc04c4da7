"""The parts of `benchmarks.calls`: what a call costs its caller, ours against other clients of Redis."""
