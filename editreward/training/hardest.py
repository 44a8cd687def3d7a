"""The hardest groups of an evaluation set: those whose annotated preferences the model finds least likely.

They are drawn as the model sees them, from the patches of the batch: nothing is read twice, and a stream will do.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image
from torch import Tensor
from transformers import BaseImageProcessor, TrainerCallback
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback, rewrite_logs

from configuration_editreward import EditRewardConfig
from editreward.groups import CandidateScore, DimensionScore, EditGroup, GroupScores
from editreward.reports.picture import ScoredGroup, draw_groups
from editreward.reports.ranking import ranking_table
from editreward.statistics.preferences import best_of_probabilities
from editreward.training.metrics import EvaluatedGroup
from editreward.training.terms import GroupBatch
from processing_editreward import EditRewardProcessor

if TYPE_CHECKING:
    from editreward.training.trainer import EditRewardTrainer

# Pushes to the Hub leave out what begins with an underscore: the pictures show the data.
FOLDER = "_evaluation"


@dataclass(order=True)
class HardGroup:
    """A group of the evaluation set.

    Attributes:
        difficulty: mean of -log P(the better one is preferred) over its pairs.
        group_id, instruction: its own.
        scores: scores and annotation of its candidates.
        sources, edited: its images.
    """

    difficulty: float
    group_id: str
    instruction: str = field(compare=False)
    scores: EvaluatedGroup = field(compare=False)
    sources: list[Image.Image] = field(compare=False)
    edited: list[Image.Image] = field(compare=False)


class HardestGroups:
    """Keeps the hardest of the groups that it is shown.

    Args:
        size: how many to keep.
        processor ([`EditRewardProcessor`]): Made the batches.
    """

    def __init__(self, size: int, processor: EditRewardProcessor) -> None:
        self.size = size
        self.processor = processor
        self._heap: list[HardGroup] = []

    def add(self, groups: Sequence[EvaluatedGroup], inputs: GroupBatch, link: str) -> None:
        """Look at a batch of this rank: the scores of its groups and the collator's batch."""
        if not self.size:
            return
        names = list(zip(inputs["group_ids"], inputs["instructions"], strict=True))
        for row, (group, (group_id, instruction)) in enumerate(zip(groups, names, strict=False)):
            probabilities = group.preference_probabilities(link)
            if not len(probabilities):
                continue
            difficulty = float(-np.log(np.maximum(probabilities, np.finfo(float).tiny)).mean())
            is_full = len(self._heap) == self.size
            if math.isnan(difficulty) or (is_full and difficulty <= self._heap[0].difficulty):
                continue
            images = images_of_row(inputs, row, self.processor)
            sources = len(images) - len(group.reward)
            hard = HardGroup(difficulty, group_id, instruction, group, images[:sources], images[sources:])
            (heapq.heapreplace if is_full else heapq.heappush)(self._heap, hard)

    def report(self, trainer: "EditRewardTrainer", prefix: str) -> None:
        """Draw the hardest groups of all ranks, and send the picture to the trackers. Every rank must call it.

        Args:
            trainer ([`EditRewardTrainer`]): Whose evaluation it was.
            prefix: Of the evaluation's metrics.
        """
        groups = self.gather(trainer.accelerator)
        if groups and trainer.is_world_process_zero():
            name = f"{prefix}_hardest_groups"
            picture = write_hardest(groups, trainer.model.config, Path(trainer.args.output_dir) / FOLDER, name)
            tag = next(iter(rewrite_logs({name: 0})))
            report_picture(trainer.callback_handler.callbacks, tag, picture, trainer.state.global_step)

    def gather(self, accelerator: Accelerator) -> list[HardGroup]:
        """The hardest groups of all ranks, hardest first. Every rank must call it."""
        found = gather_object(self._heap) if accelerator.num_processes > 1 else self._heap
        unique = {group.group_id: group for group in found}  # a last batch may be filled up with groups of the first
        return sorted(unique.values(), reverse=True)[: self.size]


def images_of_row(inputs: GroupBatch, row: int, processor: EditRewardProcessor) -> list[Image.Image]:
    """The images of one group of a batch, sources first, as the model sees them: resized and without transparency."""
    image_processor = processor.image_processor
    grids, index = inputs["image_grid_thw"].cpu(), inputs["image_index"].cpu()
    patches = grids.prod(-1)
    # The images of a row are those whose visual tokens it holds.
    tokens = patches[index] // image_processor.merge_size**2
    ends = (inputs["input_ids"] == processor.image_token_id).sum(-1).cumsum(0).cpu()
    rows = torch.searchsorted(ends, tokens.cumsum(0) - tokens, right=True)
    by_image = inputs["pixel_values"].split(patches.tolist())
    return [
        image_of_patches(by_image[image], grids[image].tolist(), image_processor)
        for image in index[rows == row].tolist()
    ]


def image_of_patches(patches: Tensor, grid: Sequence[int], image_processor: BaseImageProcessor) -> Image.Image:
    """Undo what the image processor does after resizing.

    Args:
        patches: normalised, `(grid_height * grid_width, channels * temporal_patch_size * patch_size**2)`.
        grid: time (1), height and width in patches.
        image_processor: with `merge_size`, `patch_size`, `temporal_patch_size` and the normalisation.
    """
    _, height, width = grid
    merge, side = image_processor.merge_size, image_processor.patch_size
    shape = (height // merge, width // merge, merge, merge, 3, image_processor.temporal_patch_size, side, side)
    pixels = patches.float().cpu().numpy().reshape(shape)[:, :, :, :, :, 0]
    # Rows of blocks, of patches and of pixels; then the same of columns; then channels.
    pixels = pixels.transpose(0, 2, 5, 1, 3, 6, 4).reshape(height * side, width * side, 3)
    pixels = pixels * np.asarray(image_processor.image_std) + np.asarray(image_processor.image_mean)
    return Image.fromarray((255 * pixels).round().clip(0, 255).astype(np.uint8))


def scored_group(group: HardGroup, config: EditRewardConfig) -> ScoredGroup:
    """What to draw: candidates are named by their annotation."""
    scores = group.scores
    stds, reward_stds = np.exp(scores.log_std).tolist(), np.exp(scores.reward_log_std).tolist()
    edits = []
    for mean, std, reward, reward_std in zip(
        scores.mean.tolist(), stds, scores.reward.tolist(), reward_stds, strict=True
    ):
        by_name, overall = config.scores(mean, std), config.overall_score(reward, reward_std)
        edits.append(
            CandidateScore(
                {name: DimensionScore(**score) for name, score in by_name.items()},
                reward,
                reward_std,
                overall=None if overall is None else DimensionScore(**overall),
            )
        )
    best = best_of_probabilities(
        torch.from_numpy(scores.reward), torch.from_numpy(scores.reward_log_std), config.preference_link
    )
    wins = np.bincount(scores.preferences[:, 0], minlength=len(edits))
    losses = np.bincount(scores.preferences[:, 1], minlength=len(edits))
    if len(scores.preferences):
        names = [f"won {won}, lost {lost}" for won, lost in zip(wins, losses, strict=True)]
        truth = "preferences"
    else:
        names = [
            "truth " + ", ".join("-" if math.isnan(v) else f"{v:.3g}" for v in labels) for labels in scores.labels
        ]
        truth = ", ".join(name.replace("_", " ") for name in config.dimensions)
    return ScoredGroup(
        title=f"{group.group_id}   -log P = {group.difficulty:.2f}   annotated: {truth}",
        group=EditGroup(group.sources, group.instruction, group.edited),
        names=names,
        scores=GroupScores(tuple(edits), probabilities=best.tolist()),
    )


def write_hardest(groups: Sequence[HardGroup], config: EditRewardConfig, folder: Path, name: str) -> Image.Image:
    """Draw groups into `folder` as `NAME.png`, and write the same as text to `NAME.md`, each in place of the last."""
    drawn = [scored_group(group, config) for group in groups]
    picture = draw_groups(drawn)
    folder.mkdir(parents=True, exist_ok=True)
    picture.save(folder / f"{name}.png")
    sections = [
        f"## {group.title}\n\n{group.group.instruction}\n\n```\n{ranking_table(group.names, group.scores)}\n```\n"
        for group in drawn
    ]
    (folder / f"{name}.md").write_text("\n".join(sections), encoding="utf-8")
    return picture


def report_picture(callbacks: Sequence[TrainerCallback], name: str, picture: Image.Image, step: int) -> None:
    """Send a picture to the trackers among the trainer's callbacks."""
    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            callback.tb_writer.add_image(name, np.asarray(picture), step, dataformats="HWC")
        elif isinstance(callback, TrackioCallback) and callback._initialized:
            callback._trackio.log({name: callback._trackio.Image(picture), "train/global_step": step})
        elif isinstance(callback, WandbCallback) and callback._initialized:
            callback._wandb.log({name: callback._wandb.Image(picture), "train/global_step": step})
