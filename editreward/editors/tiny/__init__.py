"""The tiny editor: a flow-matching transformer on pixels as a diffusers pipeline, for the simulated world."""
