"""Edit groups of photographs, made by ordinary tools of image editing: the data of `editreward bench open-edits`.

Nothing here is shared with the simulated worlds, on which the bundled models train: no drawing, no wording, no code.
"""
