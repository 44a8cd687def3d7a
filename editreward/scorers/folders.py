"""Where scorers keep what can be made again."""

import os
from pathlib import Path

CACHE_VARIABLE = "EDITREWARD_CACHE"
"""Environment variable that names the folder of everything that can be made again."""


def cache_folder() -> Path:
    """The folder that the environment variable `EDITREWARD_CACHE` names, else one beside the Hub's cache."""
    from huggingface_hub.constants import HF_HOME

    return Path(os.environ.get(CACHE_VARIABLE) or Path(HF_HOME) / "editreward").expanduser()
