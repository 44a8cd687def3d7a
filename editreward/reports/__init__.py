"""One page, one table, one palette and one figure style, for every report."""
