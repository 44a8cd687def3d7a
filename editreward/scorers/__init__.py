"""Whatever rates edits: reward models, baselines and a user's own functions."""
