"""Scorers that write: a vision-language model whose answer holds the scores (EditScore, VIEScore, house prompts)."""
