"""Candidate generation: image editors over instruction and source rows, into a dataset of edit groups."""
