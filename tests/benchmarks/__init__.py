"""Measurements. `make bench` writes docs/benchmarks.md; what can be counted, and does not flake, is in test_smoke."""
