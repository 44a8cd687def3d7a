"""A picture of what an editor made of held-out tasks before and after it was trained, with the same noise.

python -m research.tiny_editor.before_after --after runs/experiments/curation/bundled-0/editor --output editor.png

The tasks are the first of the test split that are said in English, as they come.
"""

import editreward.scripts

import argparse
import textwrap
from pathlib import Path
from random import Random

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from PIL import Image

from editreward.editors.editors import simulated_task
from editreward.editors.instructions import simulated_instructions
from editreward.resources import resource
from editreward.simulation.edits import perfect
from editreward.simulation.worlds import render_scene
from research.tiny_editor.experiments import edits, load

TITLES = ("source", "asked for", "before", "", "", "after", "", "")
SEEDS = range(3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, default=None, help="Folder; default: the bundled tiny editor.")
    parser.add_argument("--after", type=Path, required=True, help="Folder of the trained editor.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tasks", type=int, default=8)
    args = parser.parse_args()
    editors = [load(args.before or resource("checkpoints/tiny-editor")), load(args.after)]
    rows = simulated_instructions("test", 0, 10 * args.tasks)
    shown = [row for row in map(rows.read, range(10 * args.tasks)) if row.language == "en"][: args.tasks]
    figure, axes = plt.subplots(len(shown), len(TITLES), figsize=(8, 1.25 * len(shown)), squeeze=False)
    for row, line in zip(shown, axes, strict=True):
        images: list[Image.Image] = [row.images()[0], render_scene(perfect(simulated_task(row), Random(0)), 112)]
        for editor in editors:
            images += edits(editor, row, SEEDS)
        for image, axis in zip(images, line, strict=True):
            axis.imshow(image)
            axis.set_axis_off()
        words = "\n".join(textwrap.wrap(row.instruction, 110))
        line[0].set_title(words, fontsize=7, loc="left", pad=3)
    for title, axis in zip(TITLES, axes[-1], strict=True):
        axis.text(0.5, -0.08, title, transform=axis.transAxes, ha="center", va="top", fontsize=8)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.97, bottom=0.03, wspace=0.05, hspace=0.25)
    figure.savefig(args.output, dpi=110)


if __name__ == "__main__":
    main()
