"""The parts of `benchmarks.calls`: cost of calls in the client, ours and other Redis clients."""
