"""Benchmarks: Tandem beside its peer, in turn, in one run, on the same cores."""
