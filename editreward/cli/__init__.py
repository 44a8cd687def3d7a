"""The command line: one module per command, which imports what it needs when it runs."""
