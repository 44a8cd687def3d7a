"""What makes the bundled models and the studies about them; not installed with the package."""

import editreward.scripts
