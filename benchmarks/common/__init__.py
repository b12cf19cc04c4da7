"""Shared parts of the benchmarks: options, machine, servers, rivals, alternating rounds, goals, tables, plots, results."""
