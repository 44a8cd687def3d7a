"""Edit groups as data: the pairs that their scores and preferences give."""
