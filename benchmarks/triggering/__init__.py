"""The benchmark of triggers: what delivering events to handlers costs, here and elsewhere. Started by `benchmarks.triggers`."""
