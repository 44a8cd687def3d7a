"""Publishing on the Hub: models, datasets and Spaces, with cards and statistics."""
