"""Judges: scorers that ask a model behind an OpenAI-compatible endpoint (docs/judges.md)."""
