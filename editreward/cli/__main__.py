"""`python -m editreward.cli`, which `accelerate launch -m` takes."""

import sys

from editreward.cli.main import main

sys.exit(main())
