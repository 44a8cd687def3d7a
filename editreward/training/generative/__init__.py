"""Training of generative scorers: vision-language models that learn to write answers with reasons and scores."""
