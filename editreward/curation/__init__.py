"""Checks, flags, contamination, selection and the construction of benchmarks."""
