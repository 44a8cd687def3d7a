"""`python -m editreward.cli`, which `accelerate launch -m` takes."""

import sys

from editreward.cli import main

sys.exit(main())
