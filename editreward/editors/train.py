"""`accelerate launch -m editreward.editors.train --stage sft|dpo|grpo|nft ...`."""

import sys

try:
    from editreward.editors.script import main, run
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    sys.exit(f'editreward.editors.train: error: {error}: pip install "editreward[train,generate]"')

__all__ = ["main", "run"]

if __name__ == "__main__":
    sys.exit(run())
