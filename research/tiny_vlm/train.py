"""Pre-train the tiny vision-language model (`qwen2_5_vl`) on simulated edit groups.

    python -m research.tiny_vlm.train --config configs/tiny_vlm.yaml
    python -m research.tiny_vlm.train --config configs/tiny_vlm.yaml --resume true --minutes 60   # train on

The second command goes on from the newest state under `run_dir`. A run that is asked to stop (SIGTERM) saves its state
first. The model folder is written to `output_dir` at the end, and to `run_dir`/model at every evaluation.
"""

import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from trl import TrlParser

from editreward.dense_heads import DenseHeads, DenseLayers
from editreward.simulation import simulate_group
from editreward.simulation.captions import corpus
from editreward.simulation.world import SIZES
from editreward.training.dense import request_loss
from modeling_editreward import set_backbone_attention
from research.tiny_vlm.arguments import DataArguments, LossArguments, ModelArguments, TrainArguments
from research.tiny_vlm.by_error import ErrorShares
from research.tiny_vlm.data import SimulatedBatches, make_batch
from research.tiny_vlm.distributed import agreed, average_gradients, rank_and_ranks
from research.tiny_vlm.evaluation import dense_scores, evaluate
from research.tiny_vlm.losses import forward, losses, weighted_sum
from research.tiny_vlm.model import build_image_processor, build_model, normalise, run_packed
from research.tiny_vlm.optimizers import build_optimizers, rate
from research.tiny_vlm.saving import model_card, save_model, save_state
from research.tiny_vlm.seeing import Naming, draw, named_right, seeing_batch, seeing_losses
from research.tiny_vlm.tokenizer import build_tokenizer

EVAL_BATCH = 8
STATE = Path("state") / "state.pt"
"""Under `run_dir`: what a run goes on from."""
SEEING_SEEDS = 1_000_000_000
"""Seed of the first scene of an evaluation."""


class Log:
    """The log of a run: a JSON object a line; means of what was added since the last line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sums: dict[str, float] = {}
        self.added, self.since = 0, time.monotonic()

    def add(self, **values: float) -> None:
        """Count the values of one step in."""
        self.added += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """Means of what was added, and the seconds of a step; starts anew."""
        seconds = (time.monotonic() - self.since) / max(1, self.added)
        means = {name: round(value / self.added, 4) for name, value in self.sums.items()}
        self.sums, self.added, self.since = {}, 0, time.monotonic()
        return {**means, "seconds": round(seconds, 3)}

    def write(self, line: dict[str, Any]) -> None:
        """Append a line, and show it."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


class Trainer:
    """One run: tokenizer, model, heads, optimizers and progress, from the start or from a saved state."""

    def __init__(
        self,
        model_args: ModelArguments,
        data_args: DataArguments,
        loss_args: LossArguments,
        args: TrainArguments,
        command: str,
    ) -> None:
        self.model_args, self.data_args, self.loss_args, self.args = model_args, data_args, loss_args, args
        self.command = command
        self.rank, self.ranks = rank_and_ranks()
        torch.manual_seed(args.seed)
        self.run = Path(args.run_dir)
        self.run.mkdir(parents=True, exist_ok=True)
        self.state_folder = (self.run / STATE).parent
        self.bf16 = torch.cpu._is_avx512_bf16_supported() if args.bf16 is None else args.bf16
        state = None
        if args.resume:
            self.tokenizer = PreTrainedTokenizerFast.from_pretrained(self.state_folder)
            state = torch.load(self.run / STATE, weights_only=True)
            model_args = replace(model_args, init_from=None)
        else:
            self.tokenizer = self._first_tokenizer()
        self.processor = build_image_processor(model_args)
        self.model = build_model(model_args, self.tokenizer).train()
        self.model.model.visual.requires_grad_(args.train_vision)
        self.model.model.language_model.embed_tokens.requires_grad_(args.train_embeddings)
        if not (data_args.groups or data_args.reading_groups or data_args.instructions):
            self.model.model.language_model.layers.requires_grad_(False)  # nothing is read
        self.heads = DenseHeads(
            model_args.hidden_size, DenseLayers.of(model_args.layers), tuple(dict.fromkeys(data_args.worlds))
        )
        things = self.heads.vocabulary.request["target shape"]
        self.naming = Naming(model_args.hidden_size, self.tokenizer, things) if data_args.scenes else None
        self.trained: dict[str, nn.Module] = {"model": self.model, "heads": self.heads}
        if self.naming is not None:
            self.trained["naming"] = self.naming
        self.optimizers = build_optimizers(list(self.trained.values()), args)
        self.progress: dict[str, Any] = {"steps": 0, "groups": 0, "elapsed": 0.0, "metrics": {}}
        if state is not None:
            self._load(state)
        elif model_args.init_from:
            self._load_heads(Path(model_args.init_from))
        if model_args.naming_from and state is None:
            self._load_naming(Path(model_args.naming_from))
        set_backbone_attention(self.model.model.config, None)  # the reward model's, for the same packed trees
        self.errors = ErrorShares(data_args.worlds) if data_args.by_error else None
        self.stopping = False
        signal.signal(signal.SIGTERM, self._stop)

    def _first_tokenizer(self) -> PreTrainedTokenizerFast:
        """That of `init_from` where it has the right size, else a new one."""
        wanted = self.model_args.vocab_size
        if self.model_args.init_from:
            tokenizer = AutoTokenizer.from_pretrained(self.model_args.init_from)
            if len(tokenizer) == wanted:
                return tokenizer
        worlds = self.data_args.worlds
        groups = (
            simulate_group(seed, candidates=1, size=84, world=worlds[seed % len(worlds)])
            for seed in range(self.model_args.tokenizer_groups)
        )
        return build_tokenizer(corpus(groups), wanted, worlds)

    def _load(self, state: dict[str, Any]) -> None:
        for name, module in self.trained.items():
            module.load_state_dict(state[name])
        for (optimizer, _), saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.progress = state["progress"]

    def _load_heads(self, folder: Path) -> None:
        """The heads of an earlier run whose model was `folder`, if it kept any: of the names they learnt."""
        if (earlier := DenseHeads.find(folder)) is not None:
            self.heads.begin_with(earlier)

    def _load_naming(self, run: Path) -> None:
        """Go on with the names of an earlier run's scenes."""
        if self.naming is None:
            raise ValueError("`naming_from` needs `scenes`: nothing else is named.")
        earlier = torch.load(run / STATE, weights_only=True)
        if "naming" not in earlier:
            raise ValueError(f"{run} was trained without `scenes`: it has no names to go on with.")
        self.naming.load_state_dict(earlier["naming"])

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True

    def batches(self) -> Iterator[dict[str, Any]]:
        """Training batches from where the run stands."""
        dataset = SimulatedBatches(
            self.tokenizer, self.model_args, self.data_args, self.progress["steps"], self.args.seed, self.errors
        )
        workers = self.data_args.workers
        return iter(DataLoader(dataset, batch_size=None, num_workers=workers, prefetch_factor=6 if workers else None))

    def step(self, batch: dict[str, Any], factor: float) -> dict[str, float]:
        """One update at `factor` of the peak rates; the losses by name."""
        for optimizer, peak in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
        separate = self._backward(batch) if "input_ids" in batch else {}
        if "reading" in batch:
            separate |= {f"reading_{name}": value for name, value in self._backward(batch["reading"]).items()}
        if "instructions" in batch:
            separate["instructions_request"] = self._read(batch["instructions"])
        if "scenes" in batch:
            separate |= {f"scenes_{name}": value for name, value in self._see(batch["scenes"]).items()}
        parameters = [p for m in self.trained.values() for p in m.parameters() if p.requires_grad]
        average_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.args.max_grad_norm or math.inf)
        for optimizer, _ in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return {**separate, "grad_norm": float(norm)}

    def _backward(self, batch: dict[str, Any]) -> dict[str, float]:
        """Add a batch's gradients; its training loss, and each loss by name."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            outputs = forward(self.model, self.heads, batch, self.processor)
        if self.errors is not None and outputs.dense.comparisons is not None:
            self.errors.add(dense_scores(outputs.dense)["wrong"].detach(), batch)
        values = losses(outputs, batch, self.loss_args, self.heads.vocabulary)
        loss = weighted_sum(values, self.loss_args)
        loss.backward()
        return {"train_loss": loss.item(), **{name: value.item() for name, value in values.items()}}

    def _read(self, batch: dict[str, torch.Tensor]) -> float:
        """Add the gradients of instructions; their loss."""
        layer = self.heads.layers.request
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            _, states = run_packed(self.model, batch, self.processor, layer + 1)
            logits = self.heads.request(states[layer][0, batch["ends"]]).float()
        loss = request_loss(logits, batch["request"], self.heads.vocabulary)
        weighted_sum({"request": loss}, self.loss_args).backward()
        return loss.item()

    def _see(self, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        """Add the gradients of scenes; each loss by name."""
        assert self.naming is not None
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            pixels = normalise(batch["patches"], self.processor)
            values = seeing_losses(self.model, self.heads, self.naming, batch, pixels, self.patches)
        weighted_sum(values, self.loss_args).backward()
        return {name: value.item() for name, value in values.items()}

    @property
    def patches(self) -> int:
        """Patches along one side of an image."""
        return self.model_args.image_size // self.model_args.patch_size

    def seen(self) -> dict[str, float]:
        """Of crowded held-out scenes: the share of things that are called by their names, by world and by size."""
        if self.naming is None or not self.args.eval_groups:
            return {}
        worlds, vocabulary = self.data_args.worlds, self.heads.vocabulary
        found: dict[str, torch.Tensor] = {}
        self.model.eval()
        for world in dict.fromkeys(worlds):
            seeds = range(SEEING_SEEDS, SEEING_SEEDS + self.args.eval_groups)
            drawn = [
                draw(seed, (world,), self.model_args.image_size, self.model_args.side, vocabulary) for seed in seeds
            ]
            batch = seeing_batch(drawn, self.model_args.patch_size)
            right = named_right(
                self.model, self.naming, batch, normalise(batch["patches"], self.processor), self.patches
            )
            found[f"seen_{world}"] = right
            for size in SIZES:
                of_size = batch["attributes"][..., vocabulary.index[f"size {size}"]]
                found[f"seen_{world}_{size}"] = right[of_size]
        self.model.train()
        return {name: round(float(right.nanmean()), 4) for name, right in found.items() if not right.isnan().all()}

    def fraction(self) -> float:
        """How much of the budget is used."""
        if self.args.max_steps:
            return float(self.progress["steps"] / self.args.max_steps)
        return float(self.progress["elapsed"] / (60 * self.args.minutes))

    def held_out(self) -> list[dict[str, Any]]:
        """The batches of an evaluation, in which every candidate is judged in words."""
        if not self.data_args.groups:
            return []
        count, data_args = self.args.eval_groups, replace(self.data_args, judged=self.data_args.candidates)
        return [
            make_batch(
                range(first, min(first + EVAL_BATCH, count)),
                "validation",
                self.tokenizer,
                self.model_args,
                data_args,
            )
            for first in range(0, count, EVAL_BATCH)
        ]

    def save(self, log: Log) -> None:
        """Write the state and the newest model folder."""
        save_state(self.state_folder, self.trained, self.optimizers, self.progress, self.tokenizer)
        self.save_model(self.run / "model", log)

    def save_model(self, folder: Path, log: Log) -> None:
        """Write a plain model folder."""
        card = model_card(self.model, self.model_args, self.data_args.worlds, self.progress, self.command)
        folder.parent.mkdir(parents=True, exist_ok=True)
        save_model(folder, self.model, self.heads, self.tokenizer, self.processor, log.path, card)

    def train(self) -> None:
        """Train within the budget and write the model folder."""
        log = Log(self.run / "log.jsonl")
        progress, held_out = self.progress, self.held_out()
        if self.rank == 0:
            log.write(
                {
                    "ranks": self.ranks,
                    "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
                    "resumed_from": progress["steps"],
                    **asdict(self.model_args),
                    **asdict(self.data_args),
                    **asdict(self.loss_args),
                    **asdict(self.args),
                }
            )
        first_step, start = progress["steps"], time.process_time() - progress["elapsed"]
        last_eval, batches = time.monotonic(), self.batches()
        finished = False
        while not finished:
            before = time.monotonic()
            batch = next(batches)
            waited = time.monotonic() - before
            factor = rate(min(1.0, self.fraction()), progress["steps"] - first_step, self.args)
            values = self.step(batch, factor)
            progress["steps"] += 1
            progress["groups"] += self.data_args.groups * self.ranks
            progress["elapsed"] = agreed(time.process_time() - start)
            finished = bool(agreed(float(self.fraction() >= 1 or self.stopping)))
            if self.rank > 0:
                continue
            tokens = {"tokens": float(batch["input_ids"].numel())} if "input_ids" in batch else {}
            log.add(**values, waited=waited, **tokens)
            where = {"step": progress["steps"], "minutes": round(progress["elapsed"] / 60, 2)}
            if progress["steps"] % self.args.log_steps == 0 or finished:
                log.write({**where, "rate": round(factor, 4), **log.means()})
            if finished or time.monotonic() - last_eval > 60 * self.args.eval_minutes:
                progress["metrics"] = evaluate(
                    self.model, self.heads, held_out, self.processor, self.tokenizer, self.loss_args, self.bf16
                )
                progress["metrics"] |= self.seen()
                log.write({**where, "groups": progress["groups"], "held_out": progress["metrics"]})
                if self.errors is not None:
                    errors = {", ".join(kind): round(error, 3) for kind, error in self.errors.errors().items()}
                    log.write({**where, "training_errors": errors})
                self.save(log)
                last_eval, log.since = time.monotonic(), time.monotonic()
        if self.rank == 0 and not self.stopping:
            self.save_model(Path(self.args.output_dir), log)


def main(argv: list[str] | None = None) -> None:
    """Read the options and train."""
    parser = TrlParser((ModelArguments, DataArguments, LossArguments, TrainArguments))
    model_args, data_args, loss_args, args = parser.parse_args_and_config(argv)
    torch.set_num_threads(args.threads)
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        dist.init_process_group("gloo")
    options = " ".join(sys.argv[1:] if argv is None else argv)
    Trainer(model_args, data_args, loss_args, args, f"python -m research.tiny_vlm.train {options}").train()


if __name__ == "__main__":
    main()
