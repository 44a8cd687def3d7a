"""What the Space is made of: settings, limits, reading of uploads, batches, and the pages."""
