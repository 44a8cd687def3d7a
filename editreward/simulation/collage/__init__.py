"""The collage world: drawings of named things in front of photographs, from one bundled file."""
