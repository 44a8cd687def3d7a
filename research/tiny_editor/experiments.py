r"""
Experiments of docs/editors.md: best-of-N, reinforcement, curation and preferences by several rewards.

    python -m research.tiny_editor.experiments best-of-n --output runs/experiments
    python -m research.tiny_editor.experiments reinforce --arms truth,bundled --seeds 0,1,2
    python -m research.tiny_editor.experiments reinforce --stage nft --arms bundled --steps 100
    python -m research.tiny_editor.experiments curation --arms all,bundled,ssim,truth,random --steps 2000 --seeds 0,1,2
    python -m research.tiny_editor.experiments preferences --arms bundled --steps 400 --seeds 0,1,2

All go on after a stop. The judge is the inspector that compares with the request; no arm optimises it. `truth-80` is
the truth with as much noise as makes it order 80 % of the pairs of best-of-n's edits right: run that first.
"""

import editreward.scripts

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch
from PIL import Image
from scipy.optimize import brentq

from editreward.editors.adapters import EditAdapter, adapter_for
from editreward.editors.editors import simulated_task
from editreward.editors.instructions import SourceRow, simulated_instructions
from editreward.editors.reward_source import TrueReward, reward_source
from editreward.editors.rollouts import sample
from editreward.editors.script import main as train
from editreward.editors.tiny.pipeline import TinyEditPipeline
from editreward.files import atomic_file
from editreward.resources import resource
from editreward.rewards import Gate, Shaping
from editreward.simulation.inspectors.request import compare
from research.tiny_editor.offline import best_share, sampled_pairs, triple_rows, triple_scores, write_once

STEPS = 8
SAMPLES = 12
"""Edits of an instruction, in reinforcement as in preferences."""


@dataclass(frozen=True)
class Arm:
    """What rewards.

    Attributes:
        reward: as `--reward` takes it; None is the bundled reward model.
        shaping: of it.
    """

    reward: str | None = None
    shaping: Shaping | None = None

    def options(self, folder: Path) -> tuple[str | None, str | None]:
        """`--reward` and the file of `--reward_shaping`, which is written into a folder."""
        if self.shaping is None:
            return self.reward, None
        path = folder / "shaping.yaml"
        self.shaping.save(path)
        return self.reward, str(path)


BOTH = {"instruction_following": 0.5, "visual_quality": 0.5}
ARMS = {
    "truth": Arm("truth"),
    "bundled": Arm(),
    "lower": Arm(shaping=Shaping(dimension_weights=BOTH, lower_bound=1.0)),
    "gate": Arm(shaping=Shaping(dimension_weights=BOTH, gate=Gate("visual_quality", floor=2.0))),
    "ssim": Arm("ssim"),
    "random": Arm("random"),
}
WEAK_TRUTH = "truth-"
"""Followed by a percentage of pairs."""


def arm_of(name: str, output: Path) -> Arm:
    """An arm by name; a weak truth is fitted to the edits of best-of-n in `output`."""
    if not name.startswith(WEAK_TRUTH):
        return ARMS[name]
    paths = sorted((output / "best-of-n").glob("*.json"))
    if not paths:
        raise FileNotFoundError(f"{name} is fitted to the edits of best-of-n: run that first, with the arm truth.")
    truths = [np.array(json.loads(path.read_text())["scores"]["truth"]) for path in paths]
    gaps = np.concatenate([np.abs(one[:, None] - one)[np.triu_indices(len(one), 1)] for one in truths])
    return Arm(f"truth:{noise_for(float(name.removeprefix(WEAK_TRUTH)) / 100, gaps[gaps > 0]):.3f}")


def noise_for(accuracy: float, gaps: np.ndarray) -> float:
    """Standard deviation of a noise that leaves the order of so many pairs right, whose true scores part by `gaps`."""
    normal = NormalDist()
    levels, counts = np.unique(gaps, return_counts=True)

    def excess(std: float) -> float:
        right = [normal.cdf(gap / (std * 2**0.5)) for gap in levels]
        return float(np.average(right, weights=counts)) - accuracy

    return float(brentq(excess, 0.01, 1000.0))


def open_pipeline(folder: Path) -> TinyEditPipeline:
    """The pipeline of a folder.

    Raises:
        FileNotFoundError: there is none.
    """
    if not (folder / "model_index.json").exists():
        raise FileNotFoundError(f"{folder} holds no editor: there is no model_index.json in it")
    pipeline: TinyEditPipeline = TinyEditPipeline.from_pretrained(folder)
    return pipeline


def load(folder: Path) -> EditAdapter:
    """An editor of a folder, see `open_pipeline`."""
    pipeline = open_pipeline(folder)
    return adapter_for(pipeline, pipeline.transformer.config.sample_size, 1.0)


def edits(adapter: EditAdapter, row: SourceRow, seeds: Sequence[int]) -> list[Image.Image]:
    """Edits of a row."""
    with torch.no_grad():
        conditions = adapter.encode([row.images()[0]] * len(seeds), [row.instruction] * len(seeds))
        return sample(adapter, adapter.transformer, conditions, seeds, STEPS)


def graded(row: SourceRow, images: Sequence[Image.Image]) -> list[list[int]]:
    """The judge's grades of each edit: instruction following, visual quality."""
    task = simulated_task(row)
    return [[one.instruction_following, one.visual_quality] for one in (compare(task, image) for image in images)]


def interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """A 95 % bootstrap interval of a mean over tasks."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(2000, len(values)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def best_of_n(args: argparse.Namespace) -> None:
    """Make `--edits` of each task, score them by each arm, judge what each arm would choose."""
    folder = args.output / "best-of-n"
    folder.mkdir(parents=True, exist_ok=True)
    adapter, rows = load(args.editor), simulated_instructions("test", 0, args.tasks)
    rewards = {}
    for name in args.arms.split(","):
        spec, shaping = arm_of(name, args.output).options(folder)
        rewards[name] = reward_source(spec, shaping, check=False)
    for index in range(args.tasks):
        path = folder / f"{index:05d}.json"
        found = json.loads(path.read_text()) if path.exists() else {"scores": {}}
        if set(rewards) <= set(found["scores"]):
            continue
        row = rows.read(index)
        images = edits(adapter, row, [1000 * index + place for place in range(args.edits)])
        source = adapter.square([row.images()[0]])[0]
        found["grades"] = graded(row, images)
        for arm, reward in rewards.items():
            values = reward([row] * len(images), [source] * len(images), images).values
            found["scores"][arm] = [None if np.isnan(one) else float(one) for one in values]
        with atomic_file(path) as part:
            part.write_text(json.dumps(found))
    print_best_of_n(folder, list(rewards), args.tasks, args.edits)


def print_best_of_n(folder: Path, arms: Sequence[str], tasks: int, count: int) -> None:
    """The table: pairs ordered as by the judge; share of right edits, and visual quality, by arm and N."""
    found = [json.loads((folder / f"{index:05d}.json").read_text()) for index in range(tasks)]
    grades = np.array([one["grades"] for one in found])
    sizes = [n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256) if n <= count]
    print("| arm | pairs | " + " | ".join(f"N = {n}" for n in sizes) + " |")
    print("|---" * (len(sizes) + 2) + "|")
    for arm in arms:
        scores = np.array([one["scores"][arm] for one in found], dtype=float)
        scores = np.where(np.isnan(scores), -np.inf, scores)
        cells = []
        for n in sizes:
            # The edits are alike: every run of n of them is a draw.
            starts = range(0, count - n + 1, n)
            picks = np.stack([scores[:, start : start + n].argmax(1) + start for start in starts], 1)
            chosen = np.take_along_axis(grades, picks[..., None], 1)
            right, quality = (chosen[..., 0] == 4).mean(1), chosen[..., 1].mean(1)
            low, high = interval(right)
            cells.append(f"{right.mean():.1%} ({low:.1%} to {high:.1%}), {quality.mean():.2f}")
        print(f"| {arm} | {ordered(scores, grades.sum(2)):.1%} | " + " | ".join(cells) + " |")


def ordered(scores: np.ndarray, grades: np.ndarray) -> float:
    """Share of the pairs of a task's edits, (tasks, edits), that the judge tells apart and scores order as it does."""
    first, second = np.triu_indices(scores.shape[1], 1)
    truth = np.sign(grades[:, first] - grades[:, second])
    same = np.sign(scores[:, first] - scores[:, second]) * truth
    return float(((1 + same) / 2)[truth != 0].mean())


def evaluate(folder: Path, tasks: int) -> np.ndarray:
    """Grades of one edit of each task by an editor, kept beside it: (tasks, 2)."""
    path = folder / f"grades-{tasks}.json"
    if not path.exists():
        adapter, rows = load(folder), simulated_instructions("test", 0, tasks)
        grades = []
        for index in range(tasks):
            row = rows.read(index)
            grades += graded(row, edits(adapter, row, [index]))
        with atomic_file(path) as part:
            part.write_text(json.dumps(grades))
    return np.array(json.loads(path.read_text()))


def judged(args: argparse.Namespace, name: str, run: Callable[[str, int, Path], Sequence[str]]) -> None:
    """Train each arm with each seed, then judge the editors on the same tasks with the same noise.

    Args:
        args: of the command line.
        name: of the experiment: a folder of `--output`.
        run: the options of a run, but for seed and folder: of an arm, its seed and its folder.
    """
    start = _copied(args.editor, args.output / "start")
    before = evaluate(start, args.tasks)
    print("| arm | seed | right | change, paired by task | visual quality |\n|---|---|---|---|---|")
    print(f"| start | | {(before[:, 0] == 4).mean():.1%} | | {before[:, 1].mean():.2f} |", flush=True)
    for arm in args.arms.split(","):
        for seed in map(int, args.seeds.split(",")):
            folder = args.output / name / f"{arm}-{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / "editor").is_dir():
                words = ["--output_dir", str(folder), "--seed", str(seed), "--max_steps", str(args.steps)]
                train([*run(arm, seed, folder), *words, "--model_name_or_path", str(args.editor)])
            after = evaluate(folder / "editor", args.tasks)
            right = (after[:, 0] == 4).astype(float)
            change = right - (before[:, 0] == 4)
            low, high = interval(change)
            cells = [arm, seed, f"{right.mean():.1%}", f"{change.mean():+.1%} ({low:+.1%} to {high:+.1%})"]
            print("| " + " | ".join(map(str, cells)) + f" | {after[:, 1].mean():.2f} |", flush=True)


def _config(name: str) -> list[str]:
    return ["--config", str(resource(f"configs/editors/{name}.yaml"))]


def reinforce(args: argparse.Namespace) -> None:
    """Online RL by each arm's reward."""

    def run(arm: str, seed: int, folder: Path) -> Sequence[str]:
        reward, shaping = arm_of(arm, args.output).options(folder)
        words = [*_config(f"tiny_{args.stage}"), "--watch_truth", "false"]
        words += ["--reward", reward, "--reward_check", "false"] if reward else []
        return words + (["--reward_shaping", shaping] if shaping else [])

    judged(args, "reinforce" if args.stage == "grpo" else f"reinforce-{args.stage}", run)


def curation(args: argparse.Namespace) -> None:
    """Imitate all triples, or the third of them that an arm scores best, for as many updates."""
    rows = triple_rows(args.triples)
    writing = args.output / "curation"

    def run(arm: str, seed: int, folder: Path) -> Sequence[str]:
        kept = list(range(len(rows)))
        if arm != "all":
            spec, shaping = arm_of(arm, args.output).options(folder)
            reward = None if arm == "truth" else reward_source(spec, shaping, check=False)
            kept = best_share(triple_scores(rows, reward), 1 / 3, seed)
        data = write_once([rows[place] for place in kept], writing / f"{arm}-{seed}-triples")
        return [*_config("tiny_sft"), "--dataset_name", str(data), "--dataset_limit", str(len(kept))]

    judged(args, "curation", run)


def preferences(args: argparse.Namespace) -> None:
    """DPO on the best and the worst of as many edits as online RL would make, by each arm's reward."""
    adapter, writing = load(args.editor), args.output / "preferences"

    def run(arm: str, seed: int, folder: Path) -> Sequence[str]:
        spec, shaping = arm_of(arm, args.output).options(folder)
        reward = reward_source(spec, shaping, check=False)
        pairs = sampled_pairs(adapter, reward, args.instructions, SAMPLES, STEPS, seed)
        data = write_once(pairs, writing / f"{arm}-{seed}-pairs")
        return [*_config("tiny_dpo"), "--dataset_name", str(data), "--dataset_limit", str(args.instructions)]

    judged(args, "preferences", run)


def _copied(editor: Path, folder: Path) -> Path:
    """The first editor in a folder of its own, in which its grades can be kept."""
    if not folder.is_dir():
        open_pipeline(editor).save_pretrained(folder)
    return folder


def agreement(args: argparse.Namespace) -> None:
    """Where the two inspectors part on an editor's edits."""
    adapter, rows, same = load(args.editor), simulated_instructions("test", 0, args.tasks), []
    truth = TrueReward()
    for index in range(args.tasks):
        row = rows.read(index)
        images = edits(adapter, row, [index])
        one = truth([row], images, images).details
        same.append([one["instruction_following"][0], *graded(row, images)[0][:1]])
    table = np.zeros((4, 4), dtype=int)
    for first, second in np.array(same, dtype=int):
        table[first - 1, second - 1] += 1
    print("Rows: the inspector of scenes, 1 to 4; columns: of the request.\n", table)


EXPERIMENTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "best-of-n": best_of_n,
    "reinforce": reinforce,
    "curation": curation,
    "preferences": preferences,
    "agreement": agreement,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=list(EXPERIMENTS))
    parser.add_argument("--output", type=Path, default=Path("runs/experiments"))
    parser.add_argument("--editor", type=Path, default=None, help="Folder; default: the bundled tiny editor.")
    parser.add_argument("--arms", default="bundled,ssim,random,truth", help=f"Of {', '.join(ARMS)} and truth-PERCENT.")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--edits", type=int, default=64, help="best-of-n: edits of each task.")
    parser.add_argument("--steps", type=int, default=200, help="Steps of each training run.")
    parser.add_argument("--stage", choices=["grpo", "nft"], default="grpo", help="reinforce: by which method.")
    parser.add_argument("--triples", type=int, default=20000, help="curation: triples to choose from.")
    parser.add_argument(
        "--instructions", type=int, default=1600, help=f"preferences: instructions, of {SAMPLES} edits each."
    )
    args = parser.parse_args()
    args.editor = args.editor or resource("checkpoints/tiny-editor")
    EXPERIMENTS[args.experiment](args)


if __name__ == "__main__":
    main()
