"""Train the inspector that compares with the request, on scored candidates of the simulated world.

    python -m research.tiny_editor.inspector --candidates runs/inspector --groups 9000

Candidates are rendered once, in parts; the same command goes on after a stop of that.
"""

import editreward.scripts

import argparse
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from editreward.files import atomic_file
from editreward.simulation import apply_artefact, render_scene, simulate_group
from editreward.simulation.edits import perfect
from editreward.simulation.groups import SimulatedGroup
from editreward.simulation.inspectors.request import SIDE, WEIGHTS, Comparison, beside

CHUNK = 500
BATCH = 64
FADED = ((0.75, 4), (0.45, 3), (0.2, 2), (0.0, 1))
"""How far a source faded into the right edit must be for which instruction-following score."""


def candidates(group: SimulatedGroup, rng: Random) -> list[tuple[Image.Image, int, int]]:
    """A group's candidates as an editor of `SIDE` pixels or of twice as many makes them, and one half-done edit."""
    made = []
    for one in group.candidates:
        following, quality = (int(one.scores[name]) for name in ("instruction_following", "visual_quality"))
        image = one.image
        if rng.random() < 0.7:
            image = render_scene(one.scene, 2 * SIDE).reduce(2)
            if one.artefact:
                image = apply_artefact(image, one.artefact, quality, Random(one.seed))
        made.append((image, following, quality))
    share = rng.random()
    source, right = (
        render_scene(scene, 2 * SIDE).reduce(2) for scene in (group.task.source, perfect(group.task, rng))
    )
    quality = 4 - (0.1 < share < 0.9) - (0.3 < share < 0.7)
    made.append((Image.blend(source, right, share), next(score for least, score in FADED if share >= least), quality))
    return made


def render(folder: Path, groups: int) -> None:
    """Write what the network sees, and the scores, of groups of the training split."""
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, groups, CHUNK):
        path = folder / f"{start:06d}.npz"
        if path.exists():
            continue
        seen, scores = [], []
        for seed in range(start, start + CHUNK):
            rng, group = Random(f"inspector {seed}"), simulate_group(seed, "train", candidates=5)
            for image, following, quality in candidates(group, rng):
                seen.append(beside(group.task, image))
                scores.append((following, quality))
        with atomic_file(path) as part, open(part, "wb") as file:
            np.savez(file, seen=np.array(seen), scores=np.array(scores, dtype=np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=Path, required=True)
    parser.add_argument("--groups", type=int, default=9000)
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    args = parser.parse_args()
    render(args.candidates, args.groups)
    files = [np.load(path) for path in sorted(args.candidates.glob("*.npz"))]
    seen, scores = (np.concatenate([file[name] for file in files]) for name in ("seen", "scores"))
    torch.manual_seed(0)
    network, rng = Comparison(), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.learning_rate, weight_decay=0.02)
    steps, losses = round(args.epochs * len(seen) / BATCH), []
    for step in range(steps):
        rows = rng.integers(len(seen), size=BATCH)
        images = torch.from_numpy(seen[rows]).float()
        if rng.random() < 0.5:
            images = images.flip(3)
        loss = F.cross_entropy(network(images).transpose(1, 2), torch.from_numpy(scores[rows]).long() - 1)
        optimizer.param_groups[0]["lr"] = args.learning_rate * min((step + 1) / 100, 1.02 - step / steps, 1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % 200 == 0:
            print(f"{step + 1} of {steps}: loss {np.mean(losses[-200:]):.4f}", flush=True)
    save_file({name: value.bfloat16() for name, value in network.state_dict().items()}, WEIGHTS)


if __name__ == "__main__":
    main()
