import copy
import json
import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from editreward.editors.adapters import adapter_for
from editreward.editors.arguments import EditorTrainingArguments
from editreward.editors.instructions import SourceRow
from editreward.editors.online import Grpo, Nft
from editreward.editors.reward_source import Rewarded
from editreward.editors.rollouts import sample_latents
from editreward.editors.stages import Dpo, Edit, Sft, levels_and_noise, rows_of_step
from editreward.editors.tiny.transformer import LEAST_SIGMA
from editreward.editors.trainer import STATE, EditorTrainer, TrainingStopped
from tests.helpers.image_editors import picture, tiny_editor

SETTINGS = {
    "per_device_train_batch_size": 3,
    "groups_per_step": 2,
    "samples_per_group": 3,
    "sampling_steps": 4,
    "window": 2,
    "window_range": [0, 3],
    "learning_rate": 1e-3,
    "sample_steps": 0,
    "save_steps": 1,
    "kl_weight": 0.1,
    "adam_beta2": 0.99,
}


def row(index):
    import io

    file = io.BytesIO()
    picture(index, 16).save(file, "PNG")
    return SourceRow(f"row-{index}", None, None, f"Make object {index} red.", None, (file.getvalue(),))


def brightness(rows, sources, edited):
    return Rewarded(np.array([np.asarray(one).mean() for one in edited], dtype=np.float32), {})


def edit(index):
    return Edit(picture(index, 16), f"Make object {index} red.", picture(50 + index, 16), picture(90 + index, 16))


def trainer_of(folder, stage="grpo", pipeline=None, **settings):
    args = EditorTrainingArguments(output_dir=str(folder), **{**SETTINGS, **settings})
    adapter = adapter_for(pipeline or tiny_editor(), 16, 1.0)
    return EditorTrainer(adapter, args, Accelerator(cpu=True), stage != "sft", needs_follower=stage == "nft")


def weights(trainer):
    return torch.cat([one.detach().flatten() for one in trainer.trained.values()])


def test_a_grpo_step_is_that_of_a_plain_float64_implementation(tmp_path):
    """One step of sampling, advantages, clipped objective, divergence and AdamW, written again without the package."""
    trainer = trainer_of(tmp_path, max_steps=1, max_grad_norm=1e9)
    stage = Grpo(row, 5, brightness)
    start = copy.deepcopy(trainer.plain).double()
    with torch.no_grad():
        for one in trainer.reference_copy.parameters():  # so that the divergence has a gradient
            one.mul_(1.05)
    other = copy.deepcopy(trainer.reference_copy).double()
    settings = stage.settings(trainer.args, 0)
    rollouts, _ = stage.roll_out(trainer, 0)
    trainer.train(stage)

    levels = [float(one) for one in trainer.adapter.levels(4)]
    rewards = rollouts.rewarded.values.astype(np.float64).reshape(2, 3)
    advantage = (rewards - rewards.mean(1, keepdims=True)) / (rewards.std(1, keepdims=True) + 1e-4)
    given = {k: v.double() if v.is_floating_point() else v for k, v in rollouts.conditions.items()}
    ids, mask = given["input_ids"], given["attention_mask"]

    def mean_and_std(model, x, t, after):
        clean = model.clean(x, torch.full((6,), t), given["source"], ids, mask).double()
        velocity = (x - clean) / t
        angle = trainer.args.sampler_noise * math.pi / 2
        noise = x + (1 - t) * velocity
        return (1 - after) * (x - t * velocity) + after * math.cos(angle) * noise, after * math.sin(angle)

    loss = 0.0
    for place, number in enumerate(settings.window):
        t, after = levels[number], levels[number + 1]
        x, made = (getattr(rollouts.made, name)[:, place].double() for name in ("before", "after"))
        mean, std = mean_and_std(start, x, t, after)
        with torch.no_grad():
            reference, _ = mean_and_std(other, x, t, after)
        log_p = -((made - mean) ** 2 / (2 * std**2) + math.log(std) + math.log(2 * math.pi) / 2).flatten(1).mean(1)
        ratio = (log_p - log_p.detach()).exp()
        kl = ((mean - reference) ** 2 / (2 * std**2)).flatten(1).mean(1)
        loss = loss + (-torch.from_numpy(advantage.reshape(-1)) * ratio + 0.1 * kl).mean() / len(settings.window)
    loss.backward()
    for (name, plain), new in zip(start.named_parameters(), trainer.trained.values(), strict=True):
        gradient = plain.grad
        expected = plain - 1e-3 * gradient / (gradient.abs() + 1e-8)  # AdamW's first step
        clear = gradient.abs() > 1e-5
        assert torch.allclose(new.double()[clear], expected.detach()[clear], atol=3e-5), name
    assert (weights(trainer) - torch.cat([one.flatten() for one in start.parameters()])).abs().max() > 5e-4


def test_more_updates_of_one_sampling_start_from_its_likelihoods(tmp_path):
    trainer = trainer_of(tmp_path, max_steps=1, updates_per_step=2, clip_range=1e-6)
    trainer.train(Grpo(row, 5, brightness))
    entry = json.loads((tmp_path / "log.jsonl").read_text())
    assert entry["ratio_off"] > 0 and entry["reward_failed"] == 0 and {"seconds/sampling", "memory_gib"} <= set(entry)


def test_an_nft_step_is_that_of_a_plain_float64_implementation(tmp_path):
    trainer = trainer_of(
        tmp_path, "nft", max_steps=2, max_grad_norm=1e9, nft_levels=2, nft_beta=0.8, nft_shun=0.5, nft_decay_step=0.4
    )
    stage = Nft(row, 5, brightness)
    trainer.args.max_steps = 1
    trainer.train(stage)  # afterwards the sampling policy is another one
    first = weights(trainer)
    assert torch.equal(first, torch.cat([one.flatten() for one in trainer.followers.values()]))
    trainer.args.max_steps, trainer.args.resume = 2, False
    with torch.no_grad():
        for one in [*trainer.reference_copy.parameters(), *trainer.followers.values()]:
            one.mul_(1.03)
    start, old, other = (copy.deepcopy(trainer.plain).double() for _ in range(3))
    for model, source in ((old, trainer.followers), (other, dict(trainer.reference_copy.named_parameters()))):
        for name, one in model.named_parameters():
            one.data = source[name].detach().double()
    rollouts, _ = stage.roll_out(trainer, 1)
    assert rollouts.made.abs().max() > 0
    plain_made = sample_latents(trainer.adapter, old.float(), rollouts.conditions, seeds_of_step(trainer, 1), 4)
    old.double()
    assert torch.allclose(rollouts.made, plain_made, atol=1e-5)
    advantage = rollouts.advantages.values.double()
    advantage = torch.where(advantage < 0, advantage / 2, advantage)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(trainer.seed(4, 1)))
    loss = 0.0
    for batch in order.split(3):
        given = {k: (v.double() if v.is_floating_point() else v)[batch] for k, v in rollouts.conditions.items()}
        clean = rollouts.made[batch].double()
        for place in range(2):
            generator = torch.Generator().manual_seed(trainer.seed(5, 1, place, int(batch[0])))
            level, noise = (one.double() for one in levels_and_noise(rollouts.made[batch], 3.0, generator))
            t = level[:, None, None, None]
            x = (1 - t) * clean + t * noise
            ids, mask = given["input_ids"], given["attention_mask"]
            new, sampled, reference = (
                (x - m.clean(x, level, given["source"], ids, mask)) / t.clamp(min=LEAST_SIGMA)
                for m in (start, old, other)
            )
            kl = ((new - reference.detach()) ** 2).flatten(1).mean(1)
            for sign, worth in ((1, (1 + advantage[batch] / 5) / 2), (-1, (1 - advantage[batch] / 5) / 2)):
                off = x - t * (sampled.detach() + sign * 0.8 * (new - sampled.detach())) - clean
                error = (off**2).flatten(1).mean(1) / off.detach().abs().flatten(1).mean(1)
                loss = loss + (worth * error).sum() / 12
            loss = loss + 0.1 * kl.sum() / 12
    loss.backward()
    gradients = {name: one.grad for name, one in start.named_parameters()}
    found = {}
    trainer.optimizer.step = lambda: found.update({n: one.grad.clone() for n, one in trainer.trained.items()})
    trainer.train(stage)
    for name, gradient in gradients.items():
        assert torch.allclose(found[name].double(), gradient, rtol=1e-3, atol=1e-6), name


def seeds_of_step(trainer, number):
    return [trainer.seed(3, number, group, place) for group in range(2) for place in range(3)]


@pytest.mark.parametrize("stage", [Grpo, Nft])
def test_rewards_rise(tmp_path, stage):
    trainer = trainer_of(
        tmp_path,
        stage.__name__.lower(),
        max_steps=20,
        learning_rate=3e-2 if stage is Grpo else 1e-2,
        kl_weight=0.0,
        groups_per_step=3,
        samples_per_group=6,
    )
    trainer.train(stage(row, 3, brightness))
    rewards = [json.loads(line)["reward"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 1


@pytest.mark.parametrize("stage", ["grpo", "nft", "sft", "dpo"])
def test_a_run_that_was_killed_goes_on_to_the_same_weights(tmp_path, stage):
    def make():
        online = {"grpo": Grpo, "nft": Nft}
        if stage in online:
            return online[stage](row, 5, brightness)
        return Sft(edit, 7) if stage == "sft" else Dpo(edit, 7)

    whole = trainer_of(tmp_path / "whole", stage, max_steps=3)
    (tmp_path / "whole").mkdir()
    whole.train(make())
    (tmp_path / "parts").mkdir()
    first = trainer_of(tmp_path / "parts", stage, max_steps=1)
    first.train(make())
    with open(tmp_path / "parts" / "log.jsonl", "a") as log:  # a step that was logged, not saved
        log.write('{"step": 2}\n{"st')
    second = trainer_of(tmp_path / "parts", stage, max_steps=3)
    second.train(make())
    assert torch.equal(weights(whole), weights(second)) and not torch.equal(weights(first), weights(second))
    steps = [json.loads(line)["step"] for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]


def test_imitation_is_the_flow_matching_loss_and_lowers_it(tmp_path):
    trainer = trainer_of(tmp_path, "sft", max_steps=15, learning_rate=3e-3)
    stage = Sft(edit, 2)
    batch = [edit(0), edit(1)]
    conditions = trainer.adapter.encode([one.source for one in batch], [one.instruction for one in batch])
    value, _ = stage.loss(trainer, batch, conditions, torch.Generator().manual_seed(3))
    clean = trainer.adapter.latents([one.edited for one in batch])
    level, noise = levels_and_noise(clean, 3.0, torch.Generator().manual_seed(3))
    t = level[:, None, None, None]
    velocity = trainer.plain((1 - t) * clean + t * noise, level, **conditions).sample
    assert value.item() == pytest.approx(((velocity - (noise - clean)) ** 2).mean().item(), rel=1e-5)
    trainer.args.loss_weighting = "clean"
    weighted, _ = stage.loss(trainer, batch, conditions, torch.Generator().manual_seed(3))
    assert weighted.item() == pytest.approx((t**2 * (velocity - (noise - clean)) ** 2).mean().item(), rel=1e-5)
    trainer.train(stage)
    assert stage.loss(trainer, batch, conditions, torch.Generator().manual_seed(3))[0].item() < 0.8 * weighted.item()


def test_preferences_move_the_policy_towards_the_chosen_edit(tmp_path):
    trainer = trainer_of(tmp_path, "dpo", max_steps=8, learning_rate=2e-3)
    trainer.train(Dpo(edit, 2))
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert entries[0]["margin"] == pytest.approx(0, abs=1e-6) and entries[0]["loss"] == pytest.approx(
        math.log(2), rel=1e-4
    )
    assert entries[-1]["margin"] > 0 and entries[-1]["loss"] < math.log(2)


def test_failed_rewards_have_no_part_and_are_counted(tmp_path):
    def half(rows, sources, edited):
        found = brightness(rows, sources, edited)
        found.values[[1]] = math.nan
        return Rewarded(found.values, {1: "the image is a stop sign"})

    trainer = trainer_of(tmp_path, max_steps=1)
    trainer.train(Grpo(row, 5, half))
    assert json.loads((tmp_path / "log.jsonl").read_text())["reward_failed"] == pytest.approx(2 / 6)


def nothing(rows, sources, edited):
    return Rewarded(np.full(len(rows), math.nan, dtype=np.float32), dict.fromkeys(range(len(rows)), "no such model"))


def constant(rows, sources, edited):
    return Rewarded(np.ones(len(rows), dtype=np.float32), {})


def broken(rows, sources, edited):
    raise RuntimeError("the server is gone")


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (nothing, "2 steps in a row taught nothing. The reward failed: no such model"),
        (constant, "All edits of a group got one reward. Raise `samples_per_group`"),
        (broken, "The reward failed in step 1: the server is gone"),
    ],
)
def test_rewards_that_teach_nothing_end_the_run_and_lose_nothing(tmp_path, reward, message):
    trainer = trainer_of(tmp_path, max_steps=9, most_idle_steps=2)
    before = weights(trainer)
    with pytest.raises(TrainingStopped, match=message) as error:
        trainer.train(Grpo(row, 5, reward))
    assert "the same command goes on from there" in str(error.value)
    saved = torch.load(tmp_path / STATE, weights_only=True)["weights"]
    assert torch.equal(before, torch.cat([one.flatten() for one in saved.values()]))


def test_a_loss_that_is_no_number_ends_the_run_before_it_spoils_the_weights(tmp_path):
    trainer = trainer_of(tmp_path, "sft", max_steps=3)
    stage = Sft(edit, 5)
    trainer.train(stage)
    kept = weights(trainer)
    trainer.args.max_steps = 5
    stage.loss = lambda *_: (next(iter(trainer.trained.values())).sum() * math.nan, {})
    with pytest.raises(TrainingStopped, match="The loss of step 4 is nan. Lower `learning_rate`"):
        trainer.train(stage)
    saved = torch.load(tmp_path / STATE, weights_only=True)
    assert saved["step"] == 3 and torch.equal(kept, torch.cat([one.flatten() for one in saved["weights"].values()]))


class SpoiltSecondUpdate:
    """A stage of two updates, the second of which is stopped when asked."""

    def __init__(self, stops):
        self.stops = stops

    def step(self, trainer, number):
        for part in range(2):
            loss = sum((one**2).sum() for one in trainer.trained.values()) * (1 + number + part)
            if self.stops == (number, part):
                raise TrainingStopped("The loss is no number.")
            trainer.backward(loss)
            trainer.update()
        return {}


def test_a_stop_between_the_updates_of_a_step_leaves_the_state_before_it(tmp_path):
    (tmp_path / "whole").mkdir()
    whole = trainer_of(tmp_path / "whole", "sft", max_steps=3, updates_per_step=2)
    whole.train(SpoiltSecondUpdate(None))
    (tmp_path / "parts").mkdir()
    stopped = trainer_of(tmp_path / "parts", "sft", max_steps=3, updates_per_step=2, save_steps=3)
    with pytest.raises(TrainingStopped, match="up to step 1 is in"):
        stopped.train(SpoiltSecondUpdate((1, 1)))
    assert torch.load(tmp_path / "parts" / STATE, weights_only=True)["step"] == 1
    again = trainer_of(tmp_path / "parts", "sft", max_steps=3, updates_per_step=2)
    again.train(SpoiltSecondUpdate(None))
    assert torch.equal(weights(whole), weights(again))


def test_a_run_goes_on_by_its_new_rates_and_logs_no_step_twice(tmp_path):
    trainer_of(tmp_path, "sft", max_steps=2, save_steps=2, weight_decay=0.1).train(Sft(edit, 5))
    (tmp_path / STATE).unlink()  # killed before its first checkpoint
    trainer_of(tmp_path, "sft", max_steps=1, weight_decay=0.1).train(Sft(edit, 5))
    again = trainer_of(tmp_path, "sft", max_steps=2, weight_decay=0.0)
    again.train(Sft(edit, 5))
    assert [group["weight_decay"] for group in again.optimizer.param_groups] == [0.0]
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1, 2]


def test_a_run_that_is_done_says_so(tmp_path, caplog):
    for _ in range(2):
        trainer_of(tmp_path, "sft", max_steps=1).train(Sft(edit, 5))
    assert "nothing is left to train up to `max_steps` 1" in caplog.text


def test_another_runs_checkpoint_is_refused_by_name(tmp_path):
    def trainer(reward):
        args = EditorTrainingArguments(output_dir=str(tmp_path), **{**SETTINGS, "max_steps": 1})
        return EditorTrainer(
            adapter_for(tiny_editor(), 16, 1.0), args, Accelerator(cpu=True), False, identity={"reward": reward}
        )

    trainer("ssim").train(Sft(edit, 5))
    trainer("ssim").train(Sft(edit, 5))
    with pytest.raises(ValueError, match="reward 'ssim' became 'truth'"):
        trainer("truth").train(Sft(edit, 5))


@pytest.mark.parametrize("kind", [Sft, Grpo])
def test_rows_that_cannot_be_read_are_named_or_skipped(tmp_path, kind):
    def read(index):
        if index % 2:
            raise ValueError(f"row {index} is cut off")
        return edit(index) if kind is Sft else row(index)

    def stage():
        return Sft(read, 6) if kind is Sft else Grpo(read, 6, brightness)

    with pytest.raises(TrainingStopped, match=r"row [135] is cut off. Mend it, .*`--on_bad_row skip`"):
        trainer_of(tmp_path, max_steps=4).train(stage())
    trainer_of(tmp_path, max_steps=4, on_bad_row="skip").train(stage())
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(lines) == 4 and sum(line["rows_skipped"] for line in lines) >= 4

    def never(index):
        raise OSError("gone")

    with pytest.raises(TrainingStopped, match="None of 6 rows can be read; the last: gone"):
        trainer_of(tmp_path, max_steps=5, on_bad_row="skip").train(Sft(never, 6))


def test_rows_with_several_sources_are_refused(tmp_path):
    both = row(0).source_images + row(1).source_images
    twice = SourceRow("pair", None, None, "Put one into the other.", None, both)
    with pytest.raises(TrainingStopped, match="pair has 2 source images"):
        trainer_of(tmp_path, max_steps=1).train(Grpo(lambda index: twice, 2, brightness))


def test_advantages_and_divisors_are_those_of_all_processes(tmp_path, monkeypatch):
    """Two processes, of which the other's edits all failed, move the weights as this one's edits alone do."""
    alone = trainer_of(tmp_path, max_steps=1)
    stage = Grpo(row, 5, brightness)
    found = {}
    alone.optimizer.step = lambda: found.update({n: one.grad.clone() for n, one in alone.trained.items()})
    alone.args.max_grad_norm = 1e9
    stage.step(alone, 0)

    both = trainer_of(tmp_path, max_steps=1, max_grad_norm=1e9)
    monkeypatch.setattr(type(both.accelerator), "num_processes", property(lambda self: 2))
    monkeypatch.setattr(both.accelerator, "gather", lambda one: torch.cat([one, torch.full_like(one, math.nan)]))
    both.together = lambda error: None
    summed = {}
    both.optimizer.step = lambda: summed.update({n: one.grad.clone() for n, one in both.trained.items()})
    logged = Grpo(row, 5, brightness).step(both, 0)
    assert logged["idle_steps"] == 0
    for name, gradient in found.items():  # DDP divides the sum by the two processes
        assert torch.allclose(summed[name] / 2, gradient, rtol=1e-4, atol=1e-8), name


def test_another_editors_checkpoint_is_refused(tmp_path):
    trainer_of(tmp_path, "sft", max_steps=1).train(Sft(edit, 5))
    with pytest.raises(ValueError, match="of another editor, stage or `lora_rank`"):
        trainer_of(tmp_path, "sft", max_steps=2, lora_rank=2).train(Sft(edit, 5))


def test_lora_trains_nothing_else_and_its_start_is_the_reference(tmp_path):
    trainer = trainer_of(tmp_path, max_steps=2, lora_rank=2, learning_rate=3e-2)
    assert trainer.reference_copy is None and all("lora" in name for name in trainer.trained)
    frozen = {name: one.clone() for name, one in trainer.plain.named_parameters() if "lora" not in name}
    trainer.train(Grpo(row, 5, brightness))
    assert all(torch.equal(one, frozen[name]) for name, one in trainer.plain.named_parameters() if name in frozen)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[0]["kl"] == 0 and lines[1]["kl"] > 0
    assert (tmp_path / "editor" / "pytorch_lora_weights.safetensors").exists()


def test_every_row_has_its_turn_whatever_the_number_of_processes():
    class Processes:
        num_processes, process_index = 2, 0

    class Trainer:
        accelerator, args = Processes(), EditorTrainingArguments()

    seen = []
    for number in range(3):
        for Processes.process_index in (0, 1):
            seen += rows_of_step(6, number, 2, Trainer())
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6)) and seen[:6] != seen[6:]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples_per_group": 1}, "`samples_per_group` must be at least 2"),
        ({"nft_levels": 0}, "`nft_levels` is 0; it must be at least 1"),
        ({"advantage_limit": 0.0}, "`advantage_limit` is 0.0; it must be above 0"),
        ({"nft_shun": 2.0}, "`nft_shun` is 2.0; it must be in 0..1"),
        ({"max_steps": 0}, "`max_steps` is 0"),
        ({"logging_steps": 0}, "`logging_steps` is 0"),
        ({"gradient_accumulation_steps": 0}, "`gradient_accumulation_steps` is 0"),
        ({"loss_weighting": "cleen"}, "`loss_weighting` is 'cleen'; choose one of: none, clean"),
        ({"advantage_scale": "std"}, "`advantage_scale` is 'std'"),
        ({"mixed_precision": "fp8"}, "`mixed_precision` is 'fp8'"),
    ],
)
def test_settings_that_cannot_train_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        EditorTrainingArguments(**{**SETTINGS, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 4}, "does not fit `window_range`"),
        ({"window_range": [1, 4]}, "in which the sampler 'cps' adds no noise"),
        ({"sampler_noise": 0.0}, "`sampler_noise` must be above 0"),
    ],
)
def test_grpo_names_a_window_or_noise_that_cannot_train(settings, message):
    with pytest.raises(ValueError, match=message):
        EditorTrainingArguments(**{**SETTINGS, **settings}).check_sampler()
