"""Measurements. `make bench` writes docs/benchmarks.md; nothing here is asserted."""
