"""Packed groups against one candidate and dimension per pass, on the same weights and images, in one run.

    python performance/throughput.py --preset cpu-tiny
    python performance/throughput.py --preset 7b --json docs/performance/7b.json     # on a GPU

Four ways to do the same work, taken in turns:

- `reference`, what the published code does: every candidate and dimension is a pass of its own that encodes the source
  image again, one candidate per call; in training four passes for each pair of the group. The head is applied at every
  position, attention is transformers' `sdpa`, and the memory counts a language-model head that nothing uses. The
  backward pass is taken pass by pass, where the published code keeps the four passes of a pair: its memory is higher.
- `batched`: the same passes, several in a batch of at most `--batch-tokens`.
- `paper`: the group packed into one sequence, paper layout.
- `compact`: the same in the compact layout, which is another prompt with other scores.

Cells are scoring of N edits and training steps (forward and backward pass with the loss over all pairs, no optimizer)
on groups of N. Before anything is timed, `batched` and `paper` must give the scores of `reference`, and `compact`
those of its own prompt with one candidate per call, in float32 within 1e-4.

The bound is the ratio of the floating-point operations that `reference` and the mode need (`editreward/flops.py`): the
cost ratio at equal operations per second. What activation checkpointing computes again is not counted. Weights are
random (`cpu-tiny`: the bundled model), and nothing is downloaded. Passes of `reference` and `batched` are alike: some
presets run a sample of them and scale its time by operations; `passes run` says how many.

`--count-only` prints counts and bounds without running anything, for a model of any size:

    python performance/throughput.py --preset 7b --count-only

On a machine that others use, measure one thread's CPU time in place of the wall clock:

    OMP_NUM_THREADS=1 taskset -c 1 python performance/throughput.py --preset cpu-small --clock cpu
"""

import editreward.scripts

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import Any

import torch
import transformers
from measuring import (
    CLOCKS,
    INSTRUCTION,
    PRESETS,
    PeakMemory,
    Preset,
    as_sequence,
    build_config,
    build_model,
    build_processor,
    language_head_bytes,
    library_attention,
    matrix_multiply_peak,
    measure,
    pair_loss,
    published_forward,
    random_images,
    write_json,
)
from PIL import Image
from transformers import BatchFeature

from editreward.flops import Work, batch_work, forward_flops
from editreward.scorers.reward_model import DEFAULT_BATCH_TOKENS
from modeling_editreward import EditRewardModel
from processing_editreward import EditRewardProcessor, PackedGroup

MODES = ("reference", "batched", "paper", "compact")
CELLS = ("scoring:1", "scoring:2", "scoring:4", "scoring:8", "training:2", "training:7")
TOLERANCE = 1e-4


@dataclass
class Task:
    """What one mode does to one group.

    Attributes:
        passes: those that are run: inputs and, for a pass of one dimension, which.
        work: of all passes.
        flops: operations of all passes, of a forward pass or of a training step.
        scale: `flops` by those of the passes that are run.
        pass_count: passes, the ones that are not run included.
        preparation: seconds to make the inputs of all passes.
    """

    passes: Sequence[tuple[BatchFeature, int | None]]
    work: Work
    flops: int
    scale: float
    pass_count: int
    preparation: float


@dataclass
class Bench:
    """A model with the processors of both layouts."""

    model: EditRewardModel
    processors: dict[str, EditRewardProcessor]
    batch_tokens: int
    clock: str

    @classmethod
    def of(cls, model: EditRewardModel, pixels: int, batch_tokens: int | None, clock: str) -> "Bench":
        processors = {layout: build_processor(model, layout, pixels) for layout in ("paper", "compact")}
        default = DEFAULT_BATCH_TOKENS["cpu" if model.device.type == "cpu" else "gpu"]
        return cls(model, processors, batch_tokens or default, clock)

    def task(self, mode: str, images: Sequence[Image.Image], training: bool, sample: int | None = None) -> Task:
        """What `mode` does to the group of a source and its edits.

        Args:
            images: the source, then the candidates.
            training: a training step, else scoring.
            sample: passes of `reference` and `batched` to run; None: all.
        """
        source, *edited = images
        if mode in self.processors:
            processor = self.processors[mode]
            pack = partial(processor.pack, source, edited, INSTRUCTION)
            seconds, group = measure(pack, torch.device("cpu"), self.clock)
            whole = [(processor.collate([group]), None)]
            return self._task(whole, whole, 1, training, seconds)
        processor = self.processors["paper"]
        sequences: list[tuple[PackedGroup, int]] = []
        seconds = 0.0
        for candidate in edited:
            pack = partial(processor.pack, source, [candidate], INSTRUCTION)
            taken, group = measure(pack, torch.device("cpu"), self.clock)
            sequences += [(as_sequence(group, d), d) for d in range(len(processor.dimensions))]
            seconds += taken * len(processor.dimensions)  # the published code prepares every pass by itself
        # In training a candidate meets each other one, in a pair with passes of its own.
        repeats = len(edited) - 1 if training else 1
        batches: list[tuple[BatchFeature, int]] = []
        run: list[tuple[BatchFeature, int]] = []
        if mode == "batched":
            for dimension in range(len(processor.dimensions)):
                rows = [sequence for sequence, d in sequences if d == dimension]
                size = max(1, self.batch_tokens // max(row.num_tokens for row in rows))
                parts = [rows[i : i + size] for i in range(0, len(rows), size)]
                batches += [(processor.collate(part, share_images=False), dimension) for part in parts]
        else:
            batches = [(processor.collate([sequence], share_images=False), d) for sequence, d in sequences]
        rows_run = 0
        for batch, dimension in batches:
            if sample is None or rows_run < sample:
                run.append((batch, dimension))
                rows_run += len(batch["input_ids"])
        if sample is None:
            run = run * repeats
        return self._task(batches * repeats, run, len(sequences) * repeats, training, seconds * repeats)

    def _task(
        self,
        batches: Sequence[tuple[BatchFeature, int | None]],
        run: Sequence[tuple[BatchFeature, int | None]],
        pass_count: int,
        training: bool,
        preparation: float,
    ) -> Task:
        work, work_run = (
            reduce(add, (batch_work(batch, self.model) for batch, _ in part), Work()) for part in (batches, run)
        )
        flops, flops_run = (forward_flops(self.model, part) for part in (work, work_run))
        needed, needed_run = (part.training if training else part.forward for part in (flops, flops_run))
        return Task(run, work, needed, needed / needed_run, pass_count, preparation)

    def run(self, task: Task, training: bool) -> list[torch.Tensor]:
        """Do a task; the means and log deviations of each pass, `(2, rows)` or `(2, candidates, dimensions)`."""
        with torch.set_grad_enabled(training):
            return [self._pass(batch, dimension, training) for batch, dimension in task.passes]

    def _pass(self, batch: BatchFeature, dimension: int | None, training: bool) -> torch.Tensor:
        batch = BatchFeature({k: v.to(self.model.device, non_blocking=True) for k, v in batch.items()})
        # Until after the backward pass, which may compute activations again.
        with library_attention(self.model) if dimension is not None else nullcontext():
            if dimension is not None:
                mean, log_std = published_forward(self.model, batch, dimension)
                loss = (mean + log_std).sum()
            else:
                output = self.model(**batch)
                mean, log_std = output.mean, output.log_std
                loss = pair_loss(output.reward, output.reward_std) if training else mean.sum()
            if training:
                loss.backward()
        return torch.stack([mean, log_std]).detach()


def check_equality(bench: Bench, images: Sequence[Image.Image]) -> dict[str, float]:
    """Largest differences of the modes' scores, which must be equal.

    Raises:
        ValueError: scores differ by more than `TOLERANCE`, or the edits' scores are too close to tell.
    """
    source, *edited = images
    dimensions = len(bench.processors["paper"].dimensions)

    def scores(mode: str, group: Sequence[Image.Image]) -> torch.Tensor:
        """`(2, candidates, dimensions)`."""
        task = bench.task(mode, group, training=False)
        outputs = bench.run(task, training=False)
        if mode in bench.processors:
            return outputs[0]
        by_dimension = [
            torch.cat([out for out, (_, d) in zip(outputs, task.passes, strict=True) if d == dimension], dim=1)
            for dimension in range(dimensions)
        ]
        return torch.stack(by_dimension, dim=-1)

    expected = scores("reference", images)
    alone = torch.cat([scores("compact", [source, candidate]) for candidate in edited], dim=1)
    compact = scores("compact", images)
    differences = {
        "batched": (scores("batched", images) - expected).abs().max().item(),
        "paper": (scores("paper", images) - expected).abs().max().item(),
        "compact": (compact - alone).abs().max().item(),
    }
    for layout, values in (("paper", expected), ("compact", compact)):
        spread = (values.max(dim=1).values - values.min(dim=1).values).min().item()
        if spread < 10 * TOLERANCE:
            raise ValueError(f"Scores in the {layout} layout differ by {spread:.2g} only: nothing to compare.")
    for mode, difference in differences.items():
        if not difference <= TOLERANCE:
            raise ValueError(f"Scores of `{mode}` are off by {difference:.2g}, more than {TOLERANCE}.")
    return differences


def run_cells(bench: Bench, preset: Preset, cells: Sequence[str], modes: Sequence[str]) -> dict[str, Any]:
    """Measure the modes in turns, cell by cell, in repetitions; the results as they go into the JSON file."""
    device = bench.model.device
    images = random_images(1 + max(int(cell.partition(":")[2]) for cell in cells), preset.pixels)
    tasks: dict[tuple[str, str], Task] = {}
    seconds: dict[tuple[str, str], list[float]] = {}
    memory: dict[tuple[str, str], list[int | None]] = {}
    peaks = []
    for cell in cells:
        kind, _, count = cell.partition(":")
        for mode in modes:
            group = images[: 1 + int(count)]
            tasks[cell, mode] = bench.task(mode, group, kind == "training", preset.sampled_passes)
    for repetition in range(-preset.warmup, preset.repetitions):
        peak = matrix_multiply_peak(device, next(bench.model.backbone.parameters()).dtype, bench.clock)
        if repetition >= 0:
            peaks.append(peak)
        for cell, mode in tasks:
            training = cell.startswith("training")
            bench.model.zero_grad(set_to_none=True)
            if cell in preset.checkpointed:
                bench.model.train()  # nothing is computed again in evaluation mode
                bench.model.activation_checkpointing_enable()
            else:
                bench.model.eval()
                bench.model.activation_checkpointing_disable()
            with PeakMemory(device) as most:
                taken, _ = measure(lambda: bench.run(tasks[cell, mode], training), device, bench.clock)  # noqa: B023
            if repetition >= 0:
                seconds.setdefault((cell, mode), []).append(taken * tasks[cell, mode].scale)
                memory.setdefault((cell, mode), []).append(most.bytes)
            progress(f"repetition {repetition + 1}/{preset.repetitions}: {cell} {mode} {taken:.3g} s")
        bench.model.zero_grad(set_to_none=True)
    results = []
    for (cell, mode), task in tasks.items():
        first = (cell, modes[0])
        result = compare(task, seconds[cell, mode], tasks[first], seconds[first], peaks)
        known = [value for value in memory[cell, mode] if value is not None]
        kept = language_head_bytes(bench.model) if mode in ("reference", "batched") else 0
        result |= {"peak_memory_bytes": max(known) + kept if known else None, "preparation_seconds": task.preparation}
        results.append({"cell": cell, "mode": mode, **result})
    return {"matrix_multiply_peak": peaks, "results": results}


def compare(
    task: Task, seconds: list[float], reference: Task, reference_seconds: list[float], peaks: list[float]
) -> dict[str, Any]:
    """What a mode takes, by repetition, against the first mode and against matrix products (`peaks`)."""
    ratios = [a / b for a, b in zip(reference_seconds, seconds, strict=True)]
    rates = [task.flops / taken for taken in seconds]
    bound = reference.flops / task.flops
    return {
        "passes": task.pass_count,
        "passes_run": sum(len(batch["input_ids"]) for batch, _ in task.passes),
        **asdict(task.work),
        "flops": task.flops,
        "seconds": seconds,
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "bound": bound,
        "of_bound": statistics.median(ratios) / bound,
        "flops_per_second": statistics.median(rates),
        "share_of_peak": statistics.median(r / p for r, p in zip(rates, peaks, strict=True)),
    }


def count_cells(bench: Bench, preset: Preset, cells: Sequence[str]) -> str:
    """What the modes need, as Markdown, without running them."""
    images = random_images(1 + max(int(cell.partition(":")[2]) for cell in cells), preset.pixels)
    lines = ["| cell | mode | tokens | images | passes | TFLOP | bound |", "|---|---|--:|--:|--:|--:|--:|"]
    for cell in cells:
        kind, _, count = cell.partition(":")
        tasks = {mode: bench.task(mode, images[: 1 + int(count)], kind == "training", 1) for mode in MODES}
        for mode in ("reference", "paper", "compact"):
            task = tasks[mode]
            lines.append(
                f"| {cell} | {mode} | {task.work.tokens:,} | {task.work.images} | {task.pass_count} "
                f"| {task.flops / 1e12:.3g} | {tasks['reference'].flops / task.flops:.2f} |"
            )
    return "\n".join(lines)


def progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def table(report: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "| cell | mode | tokens | images | calls | TFLOP | seconds | ratio (range) | bound | of bound | of peak "
        "| memory, MiB | passes run |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in report["results"]:
        memory = "" if row["peak_memory_bytes"] is None else f"{row['peak_memory_bytes'] / 2**20:,.0f}"
        low, high = row["ratio_range"]
        lines.append(
            f"| {row['cell']} | {row['mode']} | {row['tokens']:,} | {row['images']} | {row['calls']} "
            f"| {row['flops'] / 1e12:.3g} | {statistics.median(row['seconds']):.3g} "
            f"| {row['ratio']:.2f} ({low:.2f} to {high:.2f}) | {row['bound']:.2f} | {row['of_bound']:.0%} "
            f"| {row['share_of_peak']:.0%} | {memory} | {row['passes_run']} of {row['passes']} |"
        )
    return "\n".join(lines)


def machine_name(device: torch.device) -> str:
    """The GPU, or the CPU and the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line] or [
        platform.processor()
    ]
    return f"{names[0]}, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"


def read_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="cpu-tiny", help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--shape", metavar="FILE", help="JSON of another backbone's configuration for the preset")
    parser.add_argument("--pixels", type=int, metavar="N", help="of each image (default: the preset's)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: CUDA if there is one)")
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS, metavar="CELL", help=", ".join(CELLS))
    parser.add_argument("--repetitions", type=int, metavar="N", help="(default: the preset's)")
    parser.add_argument("--sampled-passes", type=int, metavar="N", help="of `reference` and `batched`; 0: all")
    parser.add_argument("--check-layers", type=int, metavar="N", help="of the model for the check of equality")
    parser.add_argument("--batch-tokens", type=int, metavar="N", help="of `batched` (default: as the scorer's)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="time to measure (default: %(default)s)")
    parser.add_argument("--count-only", action="store_true", help="print counts and bounds, and run nothing")
    parser.add_argument(
        "--gradient-checkpointing", action="store_true", help="in all training cells, where memory does not suffice"
    )
    return parser.parse_args(argv)


def preset_of(args: argparse.Namespace) -> Preset:
    """The named preset with what the options change."""
    changes = {"shape": args.shape, "pixels": args.pixels, "repetitions": args.repetitions}
    changes |= {"sampled_passes": args.sampled_passes, "check_layers": args.check_layers}
    changes |= {"batch_tokens": args.batch_tokens}
    if args.gradient_checkpointing:
        changes["checkpointed"] = tuple(cell for cell in CELLS if cell.startswith("training"))
    preset = replace(PRESETS[args.preset], **{name: value for name, value in changes.items() if value is not None})
    return replace(preset, sampled_passes=None) if preset.sampled_passes == 0 else preset


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure and print; returns what was measured."""
    args = read_arguments(argv)
    transformers.logging.set_verbosity_error()
    started = time.time()
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    preset = preset_of(args)
    if args.count_only:
        with torch.device("meta"):
            model = EditRewardModel(build_config(preset))
        print(count_cells(Bench.of(model, preset.pixels, preset.batch_tokens, args.clock), preset, args.cells))
        return {}
    checked = build_model(preset, device, torch.float32, preset.check_layers)
    equality = check_equality(
        Bench.of(checked, preset.pixels, preset.batch_tokens, args.clock), random_images(4, preset.pixels)
    )
    del checked
    model = build_model(preset, device)
    bench = Bench.of(model, preset.pixels, preset.batch_tokens, args.clock)
    parts = {
        "language_model": sum(p.numel() for p in model.backbone.language_model.parameters()),
        "vision": sum(p.numel() for p in model.backbone.visual.parameters()),
    }
    report = {
        "preset": args.preset,
        **asdict(preset),
        "machine": machine_name(device),
        "clock": args.clock,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "parameters": parts,
        "equality": equality,
        **run_cells(bench, preset, args.cells, MODES),
    }
    report["run_seconds"] = time.time() - started
    progress("")
    peak = statistics.median(report["matrix_multiply_peak"])
    print(f"{args.preset}: {parts['language_model'] / 1e6:,.1f} M parameters in the language model and")
    print(f"{parts['vision'] / 1e6:,.1f} M in the vision tower, {preset.dtype}, {preset.pixels:,} pixels an image")
    print(f"on {report['machine']}; {args.clock} time; matrix products at {peak / 1e12:.3g} TFLOP/s.")
    print(f"Largest differences of scores in float32: {', '.join(f'{k} {v:.1g}' for k, v in equality.items())}.\n")
    print(table(report))
    write_json(args.json, report)
    return report


if __name__ == "__main__":
    main()
