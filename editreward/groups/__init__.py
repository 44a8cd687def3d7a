"""What all parts speak: edit groups, their scores, ratings and pairs. Nothing here needs torch but `pairs`."""
