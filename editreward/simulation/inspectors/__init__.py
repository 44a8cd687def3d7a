"""Inspectors grade an image against a task of the simulated world, whoever made it.

Two, written apart: `scenes` looks for the scene that explains the image, `request` compares with what was asked for.
One may be optimised, the other judges.
"""
