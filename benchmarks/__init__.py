"""Benchmarks of motia-redis. They are not part of the wheel. README.md in this folder describes them."""
