"""Scoring for many callers at once."""
