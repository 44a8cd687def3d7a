"""The ways of training an editor: imitation (sft), preferences (dpo), and reinforcement (grpo)."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from editreward.editors.adapters import Conditions, join, repeat, select, without_gradients
from editreward.editors.arguments import EditorTrainingArguments
from editreward.editors.flow import (
    Advantages,
    clipped_objective,
    dpo_loss,
    flow_matching_loss,
    group_advantages,
    kl_divergence,
    log_probability,
    noisy,
    sde_step,
)
from editreward.editors.instructions import SourceRow
from editreward.editors.reward_source import Rewarded, RewardSource
from editreward.editors.rollouts import SamplerSettings, Transitions, roll_out
from editreward.editors.trainer import EditorTrainer, TrainingStopped

REASONS_SHOWN = 3


@dataclass(frozen=True)
class Edit:
    """An edit to imitate, or one of a pair.

    Attributes:
        source, instruction: what was asked.
        edited: what became of it.
        rejected: a worse edit; None where there is no pair.
    """

    source: Image.Image
    instruction: str
    edited: Image.Image
    rejected: Image.Image | None = None


def rows_of_step(count: int, number: int, size: int, trainer: EditorTrainer) -> list[int]:
    """Positions of the rows of a step: all rows in a new order again and again, shared among the processes."""
    accelerator = trainer.accelerator
    first = (number * accelerator.num_processes + accelerator.process_index) * size
    made = []
    for place in range(first, first + size):
        order = np.random.default_rng([trainer.args.seed, place // count]).permutation(count)
        made.append(int(order[place % count]))
    return made


def levels_and_noise(clean: Tensor, shift: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Levels shift u / (1 + (shift - 1) u) of uniform u, (batch,), and noise like `clean`, the same on all devices."""
    uniform = torch.rand(len(clean), generator=generator)
    level = shift * uniform / (1 + (shift - 1) * uniform)
    noise = torch.randn(clean.shape, generator=generator)
    return level.to(clean.device), noise.to(clean.device)


class _Offline:
    """What sft and dpo share: batches of a dataset, one update a step."""

    def __init__(self, edits: Sequence[Edit] | Callable[[int], Edit], count: int) -> None:
        self.read = edits if callable(edits) else edits.__getitem__
        self.count = count

    def step(self, trainer: EditorTrainer, number: int) -> dict[str, float]:
        """See `Stage`."""
        args = trainer.args
        parts = args.gradient_accumulation_steps
        rows = rows_of_step(self.count, number, parts * args.per_device_train_batch_size, trainer)
        found: list[dict[str, float]] = []
        for part in range(parts):
            batch = [self.read(row) for row in rows[part::parts]]
            generator = torch.Generator().manual_seed(trainer.seed(1, number, part))
            with trainer.timed("encode"), without_gradients():
                conditions = trainer.adapter.encode([e.source for e in batch], [e.instruction for e in batch])
            with trainer.timed("update"):
                loss, logged = self.loss(trainer, batch, conditions, generator)
                trainer.backward(loss / parts)
            found.append({"loss": loss.item(), **logged})
        norm = trainer.update()
        return {name: float(np.mean([one[name] for one in found])) for name in found[0]} | {"grad_norm": norm}

    def loss(
        self, trainer: EditorTrainer, batch: Sequence[Edit], conditions: Conditions, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        raise NotImplementedError


class Sft(_Offline):
    """Imitates edits: the flow-matching loss."""

    def loss(
        self, trainer: EditorTrainer, batch: Sequence[Edit], conditions: Conditions, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Mean over a batch."""
        with torch.no_grad():
            clean = trainer.adapter.latents([edit.edited for edit in batch])
        level, noise = levels_and_noise(clean, trainer.args.level_shift, generator)
        velocity = trainer.velocity(noisy(clean, noise, level), level, conditions)
        losses = flow_matching_loss(velocity, clean, noise)
        if trainer.args.loss_weighting == "clean":
            losses = losses * level**2
        return losses.mean(), {}


class Dpo(_Offline):
    """Prefers the better of two edits: Diffusion-DPO."""

    def loss(
        self, trainer: EditorTrainer, batch: Sequence[Edit], conditions: Conditions, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Mean over a batch; both edits of a pair get one level and one noise."""
        with torch.no_grad():
            both = [trainer.adapter.latents([edit.edited for edit in batch])]
            both.append(trainer.adapter.latents([edit.rejected for edit in batch if edit.rejected is not None]))
        level, noise = levels_and_noise(both[0], trainer.args.level_shift, generator)
        clean, twice = torch.cat(both), torch.cat([level, level])
        noises, conditions = torch.cat([noise, noise]), {n: torch.cat([one, one]) for n, one in conditions.items()}
        images = noisy(clean, noises, twice)
        with trainer.reference() as velocity:
            reference = flow_matching_loss(velocity(images, twice, conditions), clean, noises)
        losses = flow_matching_loss(trainer.velocity(images, twice, conditions), clean, noises)
        (chosen, rejected), (chosen_ref, rejected_ref) = losses.chunk(2), reference.chunk(2)
        loss = dpo_loss(chosen, rejected, chosen_ref, rejected_ref, trainer.args.dpo_beta)
        margin = (rejected - rejected_ref) - (chosen - chosen_ref)
        return loss.mean(), {
            "margin": margin.mean().item(),
            "ordered": (margin > 0).float().mean().item(),
            "chosen_error": chosen.mean().item(),
        }


@dataclass(frozen=True)
class Rollouts:
    """A step's edits: conditions and transitions of each, and what they are worth."""

    conditions: Conditions
    transitions: Transitions
    rewarded: Rewarded
    advantages: Advantages


class Grpo:
    """Flow-GRPO: groups of edits of one instruction are compared, and what was better becomes likelier.

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

    def step(self, trainer: EditorTrainer, number: int) -> dict[str, float]:
        """See `Stage`."""
        args = trainer.args
        settings = self.settings(args, number)
        stopped = None
        try:
            rollouts, logged = self.roll_out(trainer, number, settings)
            self._count_idle(trainer, rollouts, logged)
        except TrainingStopped as error:
            stopped = error
        trainer.together(stopped)
        kept = rollouts.advantages.used
        if trainer.accelerator.num_processes > 1:  # every process takes part in every backward pass
            kept = torch.ones_like(kept)
        places = kept.nonzero().flatten()
        if len(places):
            with trainer.timed("update"):
                logged |= self.update(trainer, number, rollouts, settings, places)
        return logged

    def settings(self, args: EditorTrainingArguments, number: int) -> SamplerSettings:
        """How the edits of a step are sampled: all processes train the same window."""
        first, end = args.window_range
        start = int(np.random.default_rng([args.seed, 2, number]).integers(first, end - args.window + 1))
        return SamplerSettings(
            args.sampling_steps, args.sampler, args.sampler_noise, tuple(range(start, start + args.window))
        )

    def roll_out(
        self, trainer: EditorTrainer, number: int, settings: SamplerSettings
    ) -> tuple[Rollouts, dict[str, float]]:
        """Sample a step's edits and have them rewarded, each batch while the next one is sampled."""
        args, size = trainer.args, trainer.args.samples_per_group
        rows = [self.read(index) for index in rows_of_step(self.count, number, args.groups_per_step, trainer)]
        conditions, transitions, answers = [], [], []
        at_once = max(1, args.per_device_train_batch_size // size)
        with ThreadPoolExecutor(1) as pool, without_gradients(trainer.plain), trainer.accelerator.autocast():
            for start in range(0, len(rows), at_once):
                part = rows[start : start + at_once]
                with trainer.timed("sampling"):
                    sources = trainer.adapter.square([row.images()[0] for row in part])
                    one = repeat(trainer.adapter.encode(sources, [row.instruction for row in part]), size)
                    seeds = [
                        trainer.seed(3, number, start + group, place)
                        for group in range(len(part))
                        for place in range(size)
                    ]
                    edits, made = roll_out(trainer.adapter, trainer.plain, one, seeds, settings)
                conditions.append(one)
                transitions.append(made)
                repeated = [row for row in part for _ in range(size)], [s for s in sources for _ in range(size)], edits
                answers.append([pool.submit(one_of, *repeated) for one_of in (self.reward, self.truth) if one_of])
            with trainer.timed("reward"):
                rewarded = _joined([_answer(answer[0], trainer) for answer in answers])
                true = _joined([_answer(answer[1], trainer) for answer in answers]) if self.truth else None
        rewards = torch.from_numpy(rewarded.values.astype(np.float32))
        group_of = torch.arange(len(rows)).repeat_interleave(size)
        advantages = group_advantages(rewards, group_of, args.advantage_scale, args.advantage_limit)
        logged = _numbers(rewarded, advantages, true, len(rows))
        whole = Transitions(
            before=torch.cat([one.before for one in transitions]),
            after=torch.cat([one.after for one in transitions]),
            level=transitions[0].level,
            following=transitions[0].following,
            log_probability=torch.cat([one.log_probability for one in transitions]),
        )
        return Rollouts(join(conditions), whole, rewarded, advantages), logged

    def _count_idle(self, trainer: EditorTrainer, rollouts: Rollouts, logged: dict[str, float]) -> None:
        """Stop a run of steps that teach nothing, and say why they do not."""
        self.idle = 0 if rollouts.advantages.used.any() else self.idle + 1
        logged["idle_steps"] = float(self.idle)
        if self.idle < trainer.args.most_idle_steps:
            return
        reasons = list(dict.fromkeys(rollouts.rewarded.reasons.values()))[:REASONS_SHOWN]
        if rollouts.advantages.failed:
            why = f"The reward failed: {'; '.join(reasons)}. See to the scorer or server."
        else:
            why = (
                "All edits of a group got one reward. Raise `samples_per_group` or `sampler_noise`, or choose "
                "instructions that the editor gets right at times."
            )
        self.idle = 0
        raise TrainingStopped(f"{trainer.args.most_idle_steps} steps in a row taught nothing. {why}")

    def update(
        self,
        trainer: EditorTrainer,
        number: int,
        rollouts: Rollouts,
        settings: SamplerSettings,
        places: Tensor,
    ) -> dict[str, float]:
        """The updates of a step: its edits in a random order, shared among them."""
        args = trainer.args
        order = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(trainer.seed(4, number)))]
        found: dict[str, list[float]] = {}
        for part in order.tensor_split(min(args.updates_per_step, len(order))):
            window = len(settings.window)
            for batch in part.split(args.per_device_train_batch_size):
                for place in range(window):
                    share = len(batch) / (len(part) * window)
                    loss, logged = self.loss(trainer, rollouts, settings, batch, place)
                    trainer.backward(loss * share)
                    for name, value in logged.items():
                        found.setdefault(name, []).append(value)
            found.setdefault("grad_norm", []).append(trainer.update())
        return {name: float(np.mean(values)) for name, values in found.items()}

    def loss(
        self, trainer: EditorTrainer, rollouts: Rollouts, settings: SamplerSettings, batch: Tensor, place: int
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss of some edits' steps at one place of the window: eq. 5 of arXiv 2505.05470, its sign turned.

        With one update a step the policy is that which made the edits: their likelihood is taken from this very pass,
        so that rounding between batches of other sizes does not count as a change.
        """
        args, device = trainer.args, trainer.accelerator.device
        there = batch.to(device)
        conditions = select(rollouts.conditions, there)
        before, after = (one[there, place] for one in (rollouts.transitions.before, rollouts.transitions.after))
        level, following = (
            one[place].expand(len(batch)) for one in (rollouts.transitions.level, rollouts.transitions.following)
        )
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
        old = new.detach() if args.updates_per_step == 1 else rollouts.transitions.log_probability[there, place]
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
