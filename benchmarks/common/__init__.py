"""What all benchmarks share: options, machine, servers, rivals, rounds in alternation, goals, tables, plots, results."""
