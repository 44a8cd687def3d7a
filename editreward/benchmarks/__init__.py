"""Benchmarks: data, protocol and published numbers of each; robustness; the evaluation on simulated groups."""
