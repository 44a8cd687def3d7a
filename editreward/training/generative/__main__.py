"""`accelerate launch -m editreward.training.generative --config FILE.yaml`."""

import sys

try:
    from editreward.training.generative.script import run
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    sys.exit(f'editreward.training.generative: error: {error}: pip install "editreward[train]"')

if __name__ == "__main__":
    sys.exit(run())
