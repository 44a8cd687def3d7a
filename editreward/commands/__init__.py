"""Command groups of `editreward`, one module each: `editreward data ...` lives in `data.py`."""
