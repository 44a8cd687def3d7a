"""Make `checkpoints/tiny-editor` of a training run: pipeline in bfloat16, log, contact sheet and card.

python -m research.tiny_editor.bundle --run runs/tiny-editor --output checkpoints/tiny-editor
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image
from transformers import AutoTokenizer

from editreward.editors.adapters import adapter_for
from editreward.editors.instructions import simulated_instructions
from editreward.editors.tiny.pipeline import TinyEditPipeline
from editreward.editors.tiny.transformer import TinyEditTransformer
from editreward.resources import resource
from research.tiny_editor.experiments import edits, graded
from research.tiny_editor.train import SHIFT

CARD = """---
library_name: diffusers
license: apache-2.0
pipeline_tag: image-to-image
---

# Tiny editor

Edits pictures of this project's simulated world at 56 x 56 pixels: {parameters:.1f} million parameters, trained on
{samples:,} examples in {minutes:.0f} minutes of one CPU core. It knows that world and nothing else. It is meant to be
improved by a reward (docs/editors.md): its training data were as imperfect as an edit dataset's.

```python
from PIL import Image

from editreward.editors.tiny.pipeline import TinyEditPipeline

editor = TinyEditPipeline.from_pretrained("checkpoints/tiny-editor")
source = Image.open("space/examples/scene/0-source.png")
edited = editor(source, "Move the red diamond to the bottom left.").images[0]
```

| {tasks} edits of the test split, one each, by the inspector that compares with the request | |
|---|---|
| right | {right:.0%} |
| partly right (3) | {partly:.0%} |
| wrong or nothing done (1, 2) | {wrong:.0%} |
| with visible artefacts (visual quality 1 to 3) | {artefacts:.0%} |

`training_log.jsonl` is the training's log; `contact_sheet.png` shows, by line, a source and four edits of it.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tasks", type=int, default=200)
    args = parser.parse_args()
    state = torch.load(args.run / "state.pt", weights_only=True)
    transformer = TinyEditTransformer()
    transformer.load_state_dict(state["model"])
    tokenizer = AutoTokenizer.from_pretrained(resource("checkpoints/tiny-vlm"))
    pipeline = TinyEditPipeline(
        transformer.to(torch.bfloat16), FlowMatchEulerDiscreteScheduler(shift=SHIFT), tokenizer
    )
    pipeline.save_pretrained(args.output)
    shutil.copy(args.run / "log.jsonl", args.output / "training_log.jsonl")
    pipeline = TinyEditPipeline.from_pretrained(args.output)
    pipeline.set_progress_bar_config(disable=True)
    adapter, rows = adapter_for(pipeline, 56, 1.0), simulated_instructions("test", 0, args.tasks)
    grades, sheet = [], []
    for index in range(args.tasks):
        row = rows.read(index)
        images = edits(adapter, row, range(4) if index < 12 else [0])
        grades += graded(row, images[:1])
        if index < 12:
            sheet.append([row.images()[0].resize((56, 56), Image.Resampling.BOX), *images])
    whole = Image.new("RGB", (5 * 56, len(sheet) * 56))
    for y, line in enumerate(sheet):
        for x, image in enumerate(line):
            whole.paste(image, (56 * x, 56 * y))
    whole.resize((2 * whole.width, 2 * whole.height), Image.Resampling.NEAREST).save(args.output / "contact_sheet.png")
    last = json.loads((args.run / "log.jsonl").read_text().splitlines()[-1])
    following = [one for one, _ in grades]
    card = CARD.format(
        parameters=sum(one.numel() for one in transformer.parameters()) / 1e6,
        samples=last["samples"],
        minutes=last["cpu_minutes"],
        tasks=args.tasks,
        right=following.count(4) / args.tasks,
        partly=following.count(3) / args.tasks,
        wrong=sum(one < 3 for one in following) / args.tasks,
        artefacts=sum(one < 4 for _, one in grades) / args.tasks,
    )
    (args.output / "README.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
