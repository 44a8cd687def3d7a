"""Publishing on the Hub: models with their cards, and Spaces that show them."""
