"""Training of the bundled tiny editor, on rendered triples of the simulated world."""
