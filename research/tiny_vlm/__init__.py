"""Pre-training of the tiny vision-language model on simulated edit groups."""
