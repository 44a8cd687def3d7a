"""What makes the bundled drawings and photographs of the collage world."""
