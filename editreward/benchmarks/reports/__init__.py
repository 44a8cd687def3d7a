"""Reports on benchmark results, of one scorer and of several side by side: JSON, Markdown, HTML and a figure."""
