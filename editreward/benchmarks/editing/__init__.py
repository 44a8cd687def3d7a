"""Benchmarks of image editors: a judge rates what an editor made of a fixed set of instructions."""
