"""`editreward ablate`, which only a checkout has: the studies lie in `research/`, which is not installed."""

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def add_ablate(commands: Any) -> None:
    """Declare `editreward ablate`, in a checkout."""
    if not (ROOT / "research" / "ablation").is_dir():
        return
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    from research.ablation.command import add_ablate as declare

    declare(commands)
