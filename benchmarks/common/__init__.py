"""What all benchmarks share: the machine, private servers, rounds in alternation, results, tables and plots."""
