"""Training an editor on its own edits, which a reward values: reinforcement (grpo, nft)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import ClassVar, Generic, TypeVar

import numpy as np
import torch
from accelerate.utils import gather_object
from PIL import Image
from torch import Tensor

from editreward.editors.adapters import Conditions, join, repeat, select, without_gradients
from editreward.editors.arguments import EditorTrainingArguments
from editreward.editors.flow import (
    Advantages,
    clipped_objective,
    group_advantages,
    kl_divergence,
    log_probability,
    nft_loss,
    noisy,
    per_sample,
    sde_step,
)
from editreward.editors.instructions import SourceRow
from editreward.editors.reward_source import Rewarded, RewardSource
from editreward.editors.rollouts import SamplerSettings, Transitions, roll_out, sample_latents
from editreward.editors.stages import levels_and_noise, read_rows, rows_of_step
from editreward.editors.trainer import EditorTrainer, TrainingStopped

REASONS_SHOWN = 3

Made = TypeVar("Made")
"""What a stage keeps of how edits were made."""


@dataclass(frozen=True)
class Rollouts(Generic[Made]):
    """A step's edits: conditions of each, how they were made, and what they are worth."""

    conditions: Conditions
    made: Made
    rewarded: Rewarded
    advantages: Advantages


class Online(ABC, Generic[Made]):
    """Groups of edits of one instruction are compared, and what was better becomes likelier.

    Args:
        read: the row with an index.
        count: number of rows.
        reward: who rewards.
        truth: what the edits truly deserve, to be logged; None where nobody knows.
    """

    def __init__(
        self, read: Callable[[int], SourceRow], count: int, reward: RewardSource, truth: RewardSource | None = None
    ) -> None:
        self.read, self.count, self.reward, self.truth = read, count, reward, truth
        self.idle = 0

    # What stages differ in

    more_variety: ClassVar[str] = "`samples_per_group`"
    """The options that make edits of a group differ more."""

    @abstractmethod
    def sample(
        self, trainer: EditorTrainer, number: int, conditions: Conditions, seeds: Sequence[int]
    ) -> tuple[list[Image.Image], Made]:
        """Edits of a part of a step, one for each seed, and how they were made."""

    @abstractmethod
    def joined(self, parts: Sequence[Made]) -> Made:
        """The parts of a step as one."""

    @abstractmethod
    def passes(self, args: EditorTrainingArguments) -> int:
        """How many losses an edit has in an update, each with a pass of its own."""

    @abstractmethod
    def loss(
        self, trainer: EditorTrainer, number: int, rollouts: Rollouts[Made], batch: Tensor, place: int
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of some edits, `place` counts the passes; and what to log."""

    def updated(self, trainer: EditorTrainer, number: int) -> None:
        """Called after the updates of a step."""

    # What they share

    def step(self, trainer: EditorTrainer, number: int) -> dict[str, float]:
        """See `Stage`."""
        stopped = None
        try:
            rollouts, logged = self.roll_out(trainer, number)
        except TrainingStopped as error:
            stopped = error
        trainer.together(stopped)
        everywhere = self._advantages(trainer, rollouts.rewarded)
        self._count_idle(trainer, rollouts.rewarded, everywhere, logged)
        if not everywhere.used.any():
            return logged
        count = len(rollouts.rewarded.values)
        start = trainer.accelerator.process_index * count
        own = slice(start, start + count)
        advantages = replace(everywhere, values=everywhere.values[own], used=everywhere.used[own])
        places, share = advantages.used.nonzero().flatten(), 1.0
        if trainer.accelerator.num_processes > 1:  # every process takes part in every backward pass
            places, share = torch.arange(count), float(everywhere.used.float().mean())
        with trainer.timed("update"):
            logged |= self.update(trainer, number, replace(rollouts, advantages=advantages), places, share)
            self.updated(trainer, number)
        return logged

    def _advantages(self, trainer: EditorTrainer, rewarded: Rewarded) -> Advantages:
        """Of the edits of all processes, those of the first process first."""
        args = trainer.args
        rewards = torch.from_numpy(rewarded.values.astype(np.float32)).to(trainer.accelerator.device)
        rewards = trainer.accelerator.gather(rewards).cpu()
        group_of = torch.arange(len(rewards)) // args.samples_per_group
        return group_advantages(rewards, group_of, args.advantage_scale, args.advantage_limit)

    def roll_out(self, trainer: EditorTrainer, number: int) -> tuple[Rollouts[Made], dict[str, float]]:
        """Sample a step's edits and have them rewarded, each batch while the next one is sampled."""
        args, size = trainer.args, trainer.args.samples_per_group
        chosen = rows_of_step(self.count, number, args.groups_per_step, trainer)
        found, skipped = read_rows(self._row, chosen, self.count, args.on_bad_row)
        rows = [row for row, _ in found]
        conditions, parts, answers = [], [], []
        at_once = max(1, args.per_device_train_batch_size // size)
        with ThreadPoolExecutor(1) as pool, without_gradients(trainer.plain), trainer.accelerator.autocast():
            for start in range(0, len(rows), at_once):
                part = rows[start : start + at_once]
                with trainer.timed("sampling"):
                    sources = trainer.adapter.square([image for _, image in found[start : start + at_once]])
                    one = repeat(trainer.adapter.encode(sources, [row.instruction for row in part]), size)
                    seeds = [
                        trainer.seed(3, number, start + group, place)
                        for group in range(len(part))
                        for place in range(size)
                    ]
                    edits, made = self.sample(trainer, number, one, seeds)
                conditions.append(one)
                parts.append(made)
                repeated = [row for row in part for _ in range(size)], [s for s in sources for _ in range(size)], edits
                answers.append([pool.submit(one_of, *repeated) for one_of in (self.reward, self.truth) if one_of])
            with trainer.timed("reward"):
                rewarded = _joined([_answer(answer[0], trainer) for answer in answers])
                true = _joined([_answer(answer[1], trainer) for answer in answers]) if self.truth else None
        rewards = torch.from_numpy(rewarded.values.astype(np.float32))
        group_of = torch.arange(len(rows)).repeat_interleave(size)
        advantages = group_advantages(rewards, group_of, args.advantage_scale, args.advantage_limit)
        logged = _numbers(rewarded, advantages, true, len(rows)) | {"rows_skipped": float(skipped)}
        return Rollouts(join(conditions), self.joined(parts), rewarded, advantages), logged

    def _row(self, index: int) -> tuple[SourceRow, Image.Image]:
        row = self.read(index)
        return row, row.only_image()

    def _count_idle(
        self, trainer: EditorTrainer, rewarded: Rewarded, advantages: Advantages, logged: dict[str, float]
    ) -> None:
        """Stop a run of steps that teach nothing in any process, and say why they do not."""
        self.idle = 0 if advantages.used.any() else self.idle + 1
        logged["idle_steps"] = float(self.idle)
        if self.idle < trainer.args.most_idle_steps:
            return
        told = gather_object(list(rewarded.reasons.values()))
        reasons = list(dict.fromkeys(told))[:REASONS_SHOWN]
        if advantages.failed:
            why = f"The reward failed: {'; '.join(reasons)}. See to the scorer or server."
        else:
            why = (
                f"All edits of a group got one reward. Raise {self.more_variety}, or choose instructions that the "
                "editor gets right at times."
            )
        self.idle = 0
        raise TrainingStopped(f"{trainer.args.most_idle_steps} steps in a row taught nothing. {why}")

    def update(
        self, trainer: EditorTrainer, number: int, rollouts: Rollouts[Made], places: Tensor, share: float = 1.0
    ) -> dict[str, float]:
        """The updates of a step: its edits in a random order, shared among them.

        Args:
            trainer, number, rollouts: of the step.
            places: the edits.
            share: of the edits at the places of all processes that are used; losses are means over these.
        """
        args = trainer.args
        order = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(trainer.seed(4, number)))]
        found: dict[str, list[float]] = {}
        passes = self.passes(args)
        for part in order.tensor_split(min(args.updates_per_step, len(order))):
            for batch in part.split(args.per_device_train_batch_size):
                for place in range(passes):
                    loss, logged = self.loss(trainer, number, rollouts, batch, place)
                    trainer.backward(loss * (len(batch) / (len(part) * passes * share)))
                    for name, value in logged.items():
                        found.setdefault(name, []).append(value)
            found.setdefault("grad_norm", []).append(trainer.update())
        return {name: float(np.mean(values)) for name, values in found.items()}


class Grpo(Online[Transitions]):
    """Flow-GRPO: what was better than the other edits of its group becomes likelier, by its sampler's steps."""

    more_variety = "`samples_per_group` or `sampler_noise`"

    def sample(
        self, trainer: EditorTrainer, number: int, conditions: Conditions, seeds: Sequence[int]
    ) -> tuple[list[Image.Image], Transitions]:
        """See `Online`: with noise added in a window of steps."""
        return roll_out(trainer.adapter, trainer.plain, conditions, seeds, self.settings(trainer.args, number))

    def settings(self, args: EditorTrainingArguments, number: int) -> SamplerSettings:
        """How the edits of a step are sampled: all processes train the same window."""
        first, end = args.window_range
        start = int(np.random.default_rng([args.seed, 2, number]).integers(first, end - args.window + 1))
        return SamplerSettings(
            args.sampling_steps, args.sampler, args.sampler_noise, tuple(range(start, start + args.window))
        )

    def joined(self, parts: Sequence[Transitions]) -> Transitions:
        """See `Online`."""
        return Transitions(
            before=torch.cat([one.before for one in parts]),
            after=torch.cat([one.after for one in parts]),
            level=parts[0].level,
            following=parts[0].following,
            log_probability=torch.cat([one.log_probability for one in parts]),
        )

    def passes(self, args: EditorTrainingArguments) -> int:
        """See `Online`: the steps of the window."""
        return args.window

    def loss(
        self, trainer: EditorTrainer, number: int, rollouts: Rollouts[Transitions], batch: Tensor, place: int
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss of some edits' steps at one place of the window: eq. 5 of arXiv 2505.05470, its sign turned.

        With one update a step the policy is that which made the edits: their likelihood is taken from this very pass,
        so that rounding between batches of other sizes does not count as a change.
        """
        args, device = trainer.args, trainer.accelerator.device
        settings = self.settings(args, number)
        there, transitions = batch.to(device), rollouts.made
        conditions = select(rollouts.conditions, there)
        before, after = transitions.before[there, place], transitions.after[there, place]
        level, following = (one[place].expand(len(batch)) for one in (transitions.level, transitions.following))
        advantage = rollouts.advantages.values[batch].to(device)
        step = sde_step(
            before,
            trainer.velocity(before, level, conditions),
            level,
            following,
            settings.noise,
            settings.sampler,
        )
        new = log_probability(after, step)
        old = new.detach() if args.updates_per_step == 1 else transitions.log_probability[there, place]
        losses, clipped = clipped_objective(new, old, advantage, args.clip_range)
        weight = rollouts.advantages.used[batch].to(device, losses.dtype)
        logged = {
            "clipped": clipped.float().mean().item(),
            "ratio_off": (new - old).exp().sub(1).abs().mean().item(),
        }
        if args.kl_weight:
            with trainer.reference() as velocity:
                other = replace(
                    step,
                    mean=sde_step(
                        before,
                        velocity(before, level, conditions),
                        level,
                        following,
                        settings.noise,
                        settings.sampler,
                    ).mean,
                )
            divergence = kl_divergence(step, other)
            losses = losses + args.kl_weight * divergence
            logged["kl"] = divergence.mean().item()
        loss = (losses * weight).mean()
        return loss, logged | {"loss": loss.item()}


class Nft(Online[Tensor]):
    """DiffusionNFT: edits are imitated as far as they are better than others of their group, and shunned else.

    It needs the edits alone: they are sampled without added noise, by a policy that follows the trained one.
    """

    def sample(
        self, trainer: EditorTrainer, number: int, conditions: Conditions, seeds: Sequence[int]
    ) -> tuple[list[Image.Image], Tensor]:
        """See `Online`: by the following policy; keeps the clean edits."""
        with trainer.following():
            made = sample_latents(trainer.adapter, trainer.plain, conditions, seeds, trainer.args.sampling_steps)
        return trainer.adapter.images(made), made

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """See `Online`."""
        return torch.cat(list(parts))

    def passes(self, args: EditorTrainingArguments) -> int:
        """See `Online`: noise levels."""
        return args.nft_levels

    def loss(
        self, trainer: EditorTrainer, number: int, rollouts: Rollouts[Tensor], batch: Tensor, place: int
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss of some edits at a random noise level each."""
        args, device = trainer.args, trainer.accelerator.device
        there = batch.to(device)
        conditions, clean = select(rollouts.conditions, there), rollouts.made[there]
        generator = torch.Generator().manual_seed(trainer.seed(5, number, place, int(batch[0])))
        level, noise = levels_and_noise(clean, args.level_shift, generator)
        image = noisy(clean, noise, level)
        with trainer.following() as velocity:
            old = velocity(image, level, conditions)
        new = trainer.velocity(image, level, conditions)
        advantage = rollouts.advantages.values[batch].to(device) / args.advantage_limit
        worth = (1 + torch.where(advantage < 0, args.nft_shun * advantage, advantage)) / 2
        losses = nft_loss(new, old, image, level, clean, worth, args.nft_beta)
        logged = {"moved": per_sample((new.detach() - old).abs()).mean().item()}
        if args.kl_weight:
            with trainer.reference() as velocity:
                start = velocity(image, level, conditions)
            divergence = per_sample((new - start) ** 2)
            losses = losses + args.kl_weight * divergence
            logged["kl"] = divergence.mean().item()
        weight = rollouts.advantages.used[batch].to(device, losses.dtype)
        loss = (losses * weight).mean()
        return loss, logged | {"loss": loss.item()}

    def updated(self, trainer: EditorTrainer, number: int) -> None:
        """See `Online`: the sampling policy follows, at first at once, later more slowly, as in the paper."""
        trainer.follow(min(trainer.args.nft_decay_step * number, trainer.args.nft_decay))


def _answer(future: "Future[Rewarded]", trainer: EditorTrainer) -> Rewarded:
    """What the reward says; what it raises ends the run, but for what was trained."""
    try:
        found: Rewarded = future.result()
    except Exception as error:
        if isinstance(error, TypeError | AttributeError | NameError):
            raise
        raise TrainingStopped(f"The reward failed in step {trainer.done + 1}: {error}") from error
    return found


def _joined(parts: Sequence[Rewarded]) -> Rewarded:
    """Answers to the batches of a step as one."""
    reasons: dict[int, str] = {}
    start = 0
    for part in parts:
        reasons |= {start + place: reason for place, reason in part.reasons.items()}
        start += len(part.values)
    names = set.intersection(*(set(part.details) for part in parts))
    details = {name: np.concatenate([part.details[name] for part in parts]) for name in sorted(names)}
    return Rewarded(np.concatenate([part.values for part in parts]), reasons, details)


def _numbers(rewarded: Rewarded, advantages: Advantages, true: Rewarded | None, groups: int) -> dict[str, float]:
    """What a step logs of its rewards."""
    values = rewarded.values
    known = values[~np.isnan(values)]
    spread = [float(np.std(one[~np.isnan(one)])) for one in values.reshape(groups, -1) if (~np.isnan(one)).any()]
    logged = {
        "reward": float(known.mean()) if len(known) else math.nan,
        "reward_spread": float(np.mean(spread)) if spread else math.nan,
        "reward_failed": float(np.isnan(values).mean()),
        "groups_failed": float(len(advantages.failed)),
        "groups_flat": float(len(advantages.flat)),
    }
    for name, column in rewarded.details.items():
        if not np.isnan(column).all():
            logged[f"reward/{name}"] = float(np.nanmean(column))
    if true is not None:
        following, quality = true.details["instruction_following"], true.details["visual_quality"]
        logged["truth/right"] = float((following == 4).mean())
        logged["truth/instruction_following"] = float(following.mean())
        logged["truth/visual_quality"] = float(quality.mean())
    return logged
