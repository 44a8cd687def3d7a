"""The loop that the editors' training stages share: policy, optimizer, checkpoints, log and sample grids."""

import copy
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers import ModelMixin
from PIL import Image
from torch import Tensor, nn

from editreward.editors.adapters import EditAdapter, without_gradients
from editreward.editors.arguments import EditorTrainingArguments
from editreward.editors.instructions import SourceRow
from editreward.editors.rollouts import sample
from editreward.files import atomic_file, check_same
from editreward.training.metrics import peak_memory_gib

STATE = "state.pt"
LOG = "log.jsonl"
LORA_FILE = "pytorch_lora_weights.safetensors"


logger = logging.getLogger(__name__)


class TrainingStopped(ValueError):
    """Training cannot go on; what was trained so far is saved."""


class Stage(Protocol):
    """One way of training."""

    def step(self, trainer: "EditorTrainer", number: int) -> dict[str, float]:
        """Do a step, updates included, and give what to log."""


def _on_cpu(state: Any, copied: bool) -> Any:
    """The same with all tensors in the memory of the CPU."""
    if isinstance(state, dict):
        return {name: _on_cpu(one, copied) for name, one in state.items()}
    if isinstance(state, list):
        return [_on_cpu(one, copied) for one in state]
    return state.detach().to("cpu", copy=copied) if isinstance(state, Tensor) else state


def add_lora(transformer: ModelMixin, rank: int, alpha: int, targets: Sequence[str]) -> None:
    """Freeze a transformer and put LoRA beside its linear layers."""
    from peft import LoraConfig

    transformer.requires_grad_(False)
    if not hasattr(transformer, "add_adapter"):
        raise ValueError(f"{type(transformer).__name__} takes no adapters; train the whole of it: `--lora_rank 0`.")
    transformer.add_adapter(
        LoraConfig(r=rank, lora_alpha=alpha or 2 * rank, init_lora_weights="gaussian", target_modules=list(targets))
    )


class EditorTrainer:
    """Trains the transformer of a pipeline.

    Args:
        adapter: the pipeline.
        args: how.
        accelerator: devices and processes.
        needs_reference: keep the editor that training starts from, where the whole transformer is trained.
        grid_rows: rows that sample grids show.
        needs_follower: keep a second policy that follows the trained one.
        identity: what makes another run of it, as JSON data; checkpoints hold it, and one of another run is refused.
    """

    def __init__(
        self,
        adapter: EditAdapter,
        args: EditorTrainingArguments,
        accelerator: Accelerator,
        needs_reference: bool,
        grid_rows: Sequence[SourceRow] = (),
        needs_follower: bool = False,
        identity: Mapping[str, object] | None = None,
    ) -> None:
        self.identity: dict[str, object] = json.loads(json.dumps(identity or {}))
        self.adapter, self.args, self.accelerator, self.grid_rows = adapter, args, accelerator, grid_rows
        self.output = Path(args.output_dir)
        adapter.device = accelerator.device
        for part in adapter.frozen_modules():
            part.requires_grad_(False).eval().to(accelerator.device)
        transformer: ModelMixin = adapter.transformer.to(accelerator.device)
        self.reference_copy: nn.Module | None = None
        if args.lora_rank:
            add_lora(transformer, args.lora_rank, args.lora_alpha, adapter.lora_targets)
        else:
            transformer.float().requires_grad_(True)
            if needs_reference:
                self.reference_copy = copy.deepcopy(transformer).requires_grad_(False).eval()
        if args.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        self.trained = {name: one for name, one in transformer.named_parameters() if one.requires_grad}
        for parameter in self.trained.values():
            parameter.data = parameter.data.float()
        self.optimizer = torch.optim.AdamW(
            self.trained.values(),
            lr=args.learning_rate,
            betas=(0.9, args.adam_beta2),
            weight_decay=args.weight_decay,
        )
        self.plain = transformer
        self.policy: nn.Module
        self.policy, self.optimizer = accelerator.prepare(transformer, self.optimizer)
        self.followers: dict[str, Tensor] = {}
        if needs_follower:
            self.followers = {name: one.detach().clone() for name, one in self.trained.items()}
        self.done, self.updates = 0, 0
        self.seconds: dict[str, float] = {}

    # What stages use

    def velocity(self, latents: Tensor, level: Tensor, conditions: dict[str, Tensor]) -> Tensor:
        """Of the policy, with gradients."""
        with self.accelerator.autocast():
            return self.adapter.velocity(self.policy, latents, level, conditions)

    @contextmanager
    def reference(self) -> Iterator[Callable[[Tensor, Tensor, dict[str, Tensor]], Tensor]]:
        """The velocity of the editor that training started from, without gradients."""
        plain: ModelMixin = self.plain
        transformer = plain if self.reference_copy is None else self.reference_copy
        if self.reference_copy is None:
            plain.disable_adapters()
        try:
            with torch.no_grad(), self.accelerator.autocast():
                yield lambda latents, level, conditions: self.adapter.velocity(transformer, latents, level, conditions)
        finally:
            if self.reference_copy is None:
                plain.enable_adapters()

    @contextmanager
    def following(self) -> Iterator[Callable[[Tensor, Tensor, dict[str, Tensor]], Tensor]]:
        """The velocity of the policy that follows the trained one, without gradients; `plain` is it meanwhile."""
        self._swap()
        try:
            with torch.no_grad(), self.accelerator.autocast():
                yield lambda latents, level, conditions: self.adapter.velocity(self.plain, latents, level, conditions)
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, one in self.trained.items():
            one.data, self.followers[name] = self.followers[name], one.data

    def follow(self, kept: float) -> None:
        """Move the following policy to the trained one, but for a share `kept` of its own weights."""
        for name, one in self.trained.items():
            self.followers[name].lerp_(one.detach(), 1 - kept)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count the seconds under a name of the log."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients; a loss that is no number ends the run before it can spoil the weights.

        Of several processes it may be one's alone: `update` tells all of them, by the gradients that they share.
        """
        if self.accelerator.num_processes == 1 and not torch.isfinite(loss):
            raise TrainingStopped(
                f"The loss of step {self.done + 1} is {loss.item()}. Lower `learning_rate` or `max_grad_norm`, or "
                "compute in float32 (`--mixed_precision no`)."
            )
        self.accelerator.backward(loss)

    def update(self) -> float:
        """One step of the optimizer; gives the norm of the gradients."""
        args = self.args
        norm = float(self.accelerator.clip_grad_norm_(self.trained.values(), args.max_grad_norm))
        if not math.isfinite(norm):
            self.optimizer.zero_grad()
            raise TrainingStopped(
                f"The gradients of step {self.done + 1} are no numbers. Lower `learning_rate`, or compute in float32 "
                "(`--mixed_precision no`)."
            )
        for group in self.optimizer.param_groups:
            group["lr"] = args.learning_rate * min(1.0, (self.done + 1) / max(args.warmup_steps, 1))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.updates += 1
        return norm

    def seed(self, *numbers: int) -> int:
        """A seed of its own for this run, process and these numbers."""
        sequence = np.random.SeedSequence([self.args.seed, self.accelerator.process_index, *numbers])
        return int(sequence.generate_state(1, np.uint64)[0] >> 2)

    # The loop

    def train(self, stage: Stage) -> None:
        """Go on from the last checkpoint to the last step, and save the editor.

        Raises:
            TrainingStopped: it cannot go on; the state before the step that failed is saved.
        """
        if self.args.resume:
            self.load()
        self.trim_log()
        self.samples()
        if self.done >= self.args.max_steps:
            logger.warning(
                "%s is of step %d: nothing is left to train up to `max_steps` %d.",
                self.output / STATE,
                self.done,
                self.args.max_steps,
            )
        while self.done < self.args.max_steps:
            self.seconds, self.updates = {}, 0
            start = time.perf_counter()
            before = self.state(copied=True) if self.args.updates_per_step > 1 else None
            try:
                logged = stage.step(self, self.done)
            except TrainingStopped as error:
                self.save(before if self.updates else None)
                raise TrainingStopped(
                    f"{error} What was trained up to step {self.done} is in {self.output / STATE}; the same command "
                    "goes on from there."
                ) from error
            self.done += 1
            if self.done % self.args.logging_steps == 0 or self.done == self.args.max_steps:
                self.log(logged, time.perf_counter() - start)
            if self.done % self.args.save_steps == 0 or self.done == self.args.max_steps:
                self.save()
            if self.args.sample_steps and self.done % self.args.sample_steps == 0:
                self.samples()
        self.save_editor()

    def log(self, logged: dict[str, float], seconds: float) -> None:
        """Write a line of the log: means over the processes."""
        gathered, memory = gather_object([logged]), peak_memory_gib(self.accelerator)
        if not self.accelerator.is_main_process:
            return
        entry: dict[str, object] = {"step": self.done}
        for name in dict.fromkeys(name for one in gathered for name in one):
            known = [one[name] for one in gathered if not math.isnan(one.get(name, math.nan))]
            entry[name] = round(float(np.mean(known)), 6) if known else None
        entry |= {f"seconds/{name}": round(one, 3) for name, one in self.seconds.items()}
        entry |= {"seconds/step": round(seconds, 3), "memory_gib": round(memory, 2)}
        with open(self.output / LOG, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def together(self, error: TrainingStopped | None) -> None:
        """Raise in every process what stops one of them: the others would wait for it."""
        stopped = [None] if self.accelerator.num_processes == 1 else gather_object([error and str(error)])
        first = next((one for one in stopped if one), None)
        if error or first:
            raise error or TrainingStopped(str(first))

    def state(self, copied: bool = False) -> dict[str, object]:
        """What going on needs; `copied`, what it is now, whatever later updates change."""
        state = {
            "step": self.done,
            "identity": self.identity,
            "optimizer": self.optimizer.state_dict(),
            "weights": self.trained,
            "followers": self.followers,
        }
        found: dict[str, object] = _on_cpu(state, copied)
        return found

    def save(self, state: dict[str, object] | None = None) -> None:
        """Write what going on needs, that of now by default, in one step."""
        if self.accelerator.is_main_process:
            with atomic_file(self.output / STATE) as part:
                torch.save(state or self.state(), part)

    def load(self) -> None:
        """Go on from the last checkpoint, if there is one.

        Raises:
            ValueError: it is another run's, or another editor's.
        """
        path = self.output / STATE
        if not path.exists():
            return
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state.get("identity"):
            check_same(f"{path} is of a run", state["identity"], self.identity, "Choose another `output_dir`.")
        shapes = {name: tuple(one.shape) for name, one in self.trained.items()}
        kept = state.get("followers", {}).keys()
        if (
            shapes != {name: tuple(one.shape) for name, one in state["weights"].items()}
            or kept != self.followers.keys()
        ):
            raise ValueError(f"{path} is of another editor, stage or `lora_rank`. Choose another `output_dir`.")
        with torch.no_grad():
            for name, one in self.trained.items():
                one.copy_(state["weights"][name])
            for name, one in self.followers.items():
                one.copy_(state["followers"][name])
        options = [{name: group[name] for name in ("betas", "weight_decay")} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, own in zip(self.optimizer.param_groups, options, strict=True):
            group.update(own)
        self.done = state["step"]

    def trim_log(self) -> None:
        """Take lines of later steps, which are done anew, out of the log."""
        if self.accelerator.is_main_process and (log := self.output / LOG).exists():
            lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= self.done]
            with atomic_file(log) as part:
                part.write_text("".join(kept), encoding="utf-8")

    def save_editor(self) -> None:
        """Write the trained editor: the whole pipeline, or LoRA weights that `load_lora_weights` reads."""
        if not self.accelerator.is_main_process:
            return
        pipeline = self.adapter.pipeline
        if not self.args.lora_rank:
            pipeline.save_pretrained(self.output / "editor")
        elif hasattr(pipeline, "save_lora_weights"):
            from peft.utils import get_peft_model_state_dict

            # Without the configuration alpha would be the rank to whoever loads the weights.
            config = {
                name: sorted(value) if isinstance(value, set) else value
                for name, value in self.plain.peft_config["default"].to_dict().items()
            }
            pipeline.save_lora_weights(
                self.output / "editor",
                get_peft_model_state_dict(self.plain),
                transformer_lora_adapter_metadata=config,
            )
        else:
            self.plain.save_lora_adapter(self.output / "editor", weight_name=LORA_FILE)

    def samples(self) -> None:
        """Save a grid: per row the source, then edits with the same seeds each time."""
        if not self.grid_rows or not self.args.sample_steps or not self.accelerator.is_main_process:
            return
        path = self.output / "samples" / f"step-{self.done:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        count, lines = 4, []
        for row in self.grid_rows:
            source = row.images()[0]
            with without_gradients(self.plain), self.accelerator.autocast():
                conditions = self.adapter.encode([source] * count, [row.instruction] * count)
                made = sample(self.adapter, self.plain, conditions, range(count), self.args.sampling_steps)
            lines.append([source.resize(made[0].size), *made])
        width, height = lines[0][0].size
        grid = Image.new("RGB", (width * (count + 1), height * len(lines)))
        for y, line in enumerate(lines):
            for x, image in enumerate(line):
                grid.paste(image, (x * width, y * height))
        grid.save(path)
