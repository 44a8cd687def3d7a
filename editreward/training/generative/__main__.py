"""`accelerate launch -m editreward.training.generative --config FILE.yaml`."""

import sys

from editreward.training.generative.script import run

if __name__ == "__main__":
    sys.exit(run())
