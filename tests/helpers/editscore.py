"""Outputs of the published EditScore: `tests/golden/editscore`, or the folder that EDITSCORE_GOLDEN names."""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

GOLDEN = Path(os.environ.get("EDITSCORE_GOLDEN") or Path(__file__).parents[1] / "golden" / "editscore")


@cache
def golden() -> dict[str, Any]:
    """`cases.json`, whose README says what is in it."""
    return json.loads((GOLDEN / "cases.json").read_text(encoding="utf-8"))


def number(value: Any) -> Any:
    """A number of the file, where {"float": "nan"} stands for what JSON has not."""
    return float(value["float"]) if isinstance(value, dict) else value
